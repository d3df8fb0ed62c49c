-- reconcile: apply one worker's report to its pool and answer it, in one atomic step.
--
-- KEYS  1 counts   hash: one record per worker, and the pool's own fields, which begin with '#'
--       2 leases   list: every worker once; the first are the next to be looked at
--       3 home     hash: pid:nonce -> born, sealed, of the workers that share the reporter's host and process namespace
--       4 seconds  hash: place in a ring of 900 -> moment, one for each second of Redis's time
--       5 controls hash: 'set' -> what operators have set for the pool (controls.py tells how it is written), and 'seal'
--       6 minutes  hash: place in a ring of 1,440 -> moment, one for each minute
--       and where the pool is shared by quotas or classes
--       7 claims   hash: key, 15 bytes -> slots held under it, by all workers together; '#epoch', '#dead', and '#seal'
--       8 own      hash: key -> slots that this worker holds under it; '#epoch', and '#since', its report that began it
--       9 attempts hash: number of a set -> at most 8 buckets of attempts, each a key, 15 bytes, when it is full, and its turn
--      10 holders  hash: key -> most;worker=since,since;worker=since and a seal, of quotas whose oldest connection gives
--                  way; '@worker' -> the keys under which it is told to end connections. Since is the pool's clock's
--      11 swept    as 8, of a dead worker whose claims are given back, if one is named
-- ARGV  1 worker   2 seq   3 held (slots)   4 wanted (handshakes)   5 limit (slots)
--       6 version seen   7 allowance (slots)   8 lease (ms)   9 beat (ms)   10 expiry of unused keys (ms)
--      11 age (ms)   12 born, sealed   13 server   14 counters   15 counters acknowledged
--      16 beat? (0/1)   17 1: goodbye, 2: a later worker of the process takes its place
--      18 rate (admissions per second, 0: none)   19 burst (admissions)   20 ramp (ms)
--      21 retry-after, least (ms)   22 retry-after, most (ms)   23 moments given away and not yet reserved
--      24 load
--      25 controls as this worker knows them ('' for none)   26 draining? (0/1)
--      27 FINGERPRINT|SETTINGS; of this worker (agreement.py tells of them), and after it the settings that it knows to
--         be in force, where they are others   28 the pool's level as this worker last heard it (0-3, '' for unknown)
--      29 classes as name:share:held,... (share '-': always admitted); '' in a pool that is not shared, else
--      30 quotas as most,... or %share,...   31 parts of a quota while settling (0: none)   32 seq last acknowledged
--      33 claims: 15 bytes of key, 4 of slots held under it (big-endian), for each
--      34 asks, of a byte each: class, kind (0 wants a slot, 1 has one, 2 has one and its class is of no matter),
--         number of claims, and for each of these: quota, and two bytes of its key's place in 33 (all from 0)
--      35 dead worker whose claims are in the key 'swept' ('': none)
--      36 for each quota attempts per second ~ burst, or '-',...; '' where none has a rate
--      37 attempts: two bytes of the number of an ask (0: decided by the worker), one of the quota (from 0), two of how
--         many, and 15 of key, for each
--      38 for each quota 1 where its oldest connection gives way, or 0; '' where none does
--      39 ages: two bytes of the place of a key in 33, one of the quota, two of how many, and four for each: ms that
--         this worker has held a slot under the key, the oldest first
--      and last: workers of this home whose process is gone
-- Returns {'ok', seq, granted, total, limit, workers, version, settling, lapsed, why not all ('' or a reason),
--          first moment, from one to the next, real time since the pace began ('' or ms, as text),
--          Redis's time (ms, as text), controls if newer ('' if not), level (0-3), edges to tell of,
--          verdicts (a letter for each ask: a granted, f full, s share, t settling, r rate, p paused, A... the quota,
--          P... the rate of the quota), tell all claims again?, dead worker to be swept up ('': none),
--          put damaged counts right?, ms until the next attempt may pass, for each P...,... (as text),
--          the settings in force, where they are not the worker's (else ''),
--          key (hex)=how many of its oldest connections this worker is to end,..., neighbour, born, ...}
--      or {'out of order', seq, last seq applied}, having changed nothing,
--      or {'forgotten', seq}, having changed nothing: the worker's old claims are still being swept up.
--
-- '#settings' is UNTIL|FINGERPRINT|SETTINGS; for all settings that workers lately had: by the pool's clock they count
-- until a lease after the last report of a worker that has them.
-- A record is held|seq|seen|lease's end|started|server#fingerprint|counters|load|draining, in a pool that is shared
-- |classes|keys claimed, and its seal; counters and classes are name=count,name=count;
-- of counters C, E and M are its calls, those that failed, and the milliseconds that all took.
-- '#alert' is level|edge;edge; an edge is number,from,to,held,limit,worker that is to tell of it.
-- A moment is when|most held|limit|admitted|refused by reason, as counters; when is the number of the second or the
-- minute since 1970, held and limit are '' where nobody has reported in it. It has at most so many bytes that 1,440
-- take less than 200 kB: the rarest reasons share the name 'other' where there is no room.
-- '#pace' is began|full at|tail|outflow|measured at|measured|was full; pace.py tells the rules, and what each is.
-- A worker's claims count in the pool's while both have the same '#epoch'. Where claims are lost, a new epoch begins,
-- and everybody tells them again, until a reply to that has been heard. '#dead' is the first of the dead workers to be
-- swept up, '#dead:NAME' the one after.
-- Times in records are Redis's, in milliseconds, but for the lease's end, which is the pool's clock's. Writes that need
-- memory come before those that give it back: Redis refuses a script for want of memory only before its first write.

-- The pool's own fields; '#check' seals the others.
local OWN = {
  '#total', '#version', '#clock', '#real', '#settled', '#limit', '#counters', '#draining', '#alert', '#pace',
  '#settings', '#check',
}
local LOOKED_AT = 4         -- workers whose lease a call looks at; more, where it finds one that has run out
local REAPED_PER_CALL = 100
local NEIGHBOURS_SHOWN = 256
local SWEPT_PER_CALL = 200
local SHARED = ARGV[29] ~= ''
local FIRST_GONE = SHARED and 40 or 30  -- in ARGV
local SECONDS_KEPT, MINUTES_KEPT = 900, 1440
local LONGEST_SPREAD = 300  -- seconds
local LONGEST_MOMENT = 68   -- bytes
local NO_HANDSHAKES = {
  released = true, shed = true, drained = true, aged = true, evicted = true, overdue = true, ['layer.full'] = true,
  unaccepted = true, outlived = true,
  C = true, E = true, M = true, ['ledger.healed'] = true,
}
local SCHEDULED = 0.97      -- moments given away, as a share of the admissions that are possible
local ROUNDING = 1e-6       -- of a token
local MOST_SLOTS = 10000000
local CONTROLS_BYTES = 8192
local CRITICAL_AT, HYSTERESIS = 0.90, 0.05
local EDGES_KEPT = 16

-- The report ----------------------------------------------------------------------------------------------------------

local counts, leases, home, seconds, controls, minutes = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local worker, seq, held, wanted = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local configured, seen_version, allowance = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local lease, beat, expiry = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local age, born, server, counters, acknowledged = tonumber(ARGV[11]), ARGV[12], ARGV[13], ARGV[14], ARGV[15]
local is_beat, goodbye = ARGV[16] == '1', ARGV[17] == '1'
local rate, burst, ramp = tonumber(ARGV[18]) / 1000, tonumber(ARGV[19]), tonumber(ARGV[20])
local retry_low, retry_high, owed, load = tonumber(ARGV[21]), tonumber(ARGV[22]), tonumber(ARGV[23]), ARGV[24]
local known, draining, known_level = ARGV[25], tonumber(ARGV[26]), tonumber(ARGV[28])
local claims, own, swept = KEYS[7], KEYS[8], KEYS[11]
local parts, heard, dead_worker = tonumber(ARGV[31]), tonumber(ARGV[32]), ARGV[35]

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Words and numbers ---------------------------------------------------------------------------------------------------

-- What Redis returns may have been written by anybody. Each text is bounded before it is matched, no pattern tries a
-- byte twice, and a number is plain digits: neither nan nor inf, no sign, no hex. What is not as it must be is nil.
local read = {
  RECORD = '^(%d+)|(%d+)|(%d+)|(%d+)|(%d+)|[^|]*|([^|]*)|[^|]*|([01])(.*)$',
  RECORD_BYTES = 32768, COUNTERS_BYTES = 24576, COUNTERS_KEPT = 256, COUNTER_BYTES = 80, ALERT_BYTES = 4096,
  LARGEST = 1e15, LATEST = 9e14, SEAL_BYTES = 3, SEARCHED = 256, SAMPLED = 32,
}

-- A whole number from 0 to `most`.
function read.number(text, most)
  local number = text and #text <= 15 and string.find(text, '^%d+$') and tonumber(text)
  return number and number <= (most or read.LARGEST) and number or nil
end

-- A number that '%.17g' has written, not below 0.
function read.decimal(text)
  local number = text and #text <= 24 and string.find(text, '^%d[%d.e+-]*$') and tonumber(text)
  return number and number <= read.LARGEST and number or nil
end

-- The bytes that tell whether `text` is still what the script has written under `name`.
function read.seal(name, text, bytes)
  return string.sub(redis.sha1hex(name .. '\n' .. text), 1, bytes or read.SEAL_BYTES)
end

-- A worker's record, without the seal at its end.
function read.record(name, record)
  if not record or #record > read.RECORD_BYTES then return nil end
  local text = string.sub(record, 1, -1 - read.SEAL_BYTES)
  if text .. read.seal(name, text) ~= record then return nil end
  local count, last, seen, ends, started, tally, draining, tail = string.match(text, read.RECORD)
  local was = {
    held = read.number(count, MOST_SLOTS), seq = read.number(last), seen = read.number(seen),
    ends = read.number(ends), started = read.number(started), counters = tally, draining = tonumber(draining),
    claimed = tail and tonumber(string.match(tail, '^|[^|]*|(%d+)$') or 0),
  }
  return was.held and was.seq and was.seen and was.ends and was.started and was
end

-- A count as it stands under a key: its digits, and two letters that depend on both. Much cheaper than a seal.
function read.marked(key, count)
  local high, low = string.byte(key, 1, 2)
  local mark = ((high * 256 + low) * 31 + count * 1009) % 676
  return string.format('%d%c%c', count, 97 + math.floor(mark / 26), 97 + mark % 26)
end

function read.count(key, text)
  if not text then return 0 end
  local count = #key > 1 and #text <= 12 and read.number(string.match(text, '^(%d+)%l%l$'), MOST_SLOTS)
  return count and read.marked(key, count) == text and count or nil
end

function read.book_seal(name, epoch, since)
  local digits = string.format('%.0f', since)
  return digits .. read.seal(name, epoch .. '|' .. digits)
end

-- The epoch of a worker's own claims, and the report that began it.
function read.book(name, key)
  local epoch, sealed = unpack(redis.call('HMGET', key, '#epoch', '#since'))
  local since = epoch and sealed and #epoch <= 100 and read.number(string.sub(sealed, 1, -1 - read.SEAL_BYTES))
  if since and read.book_seal(name, epoch, since) == sealed then return epoch, since end
end

-- What seals the pool's claims: so many fields, of that epoch, and this dead worker is the first to be swept up.
function read.pool_seal(epoch, heir, fields)
  return fields .. '|' .. read.seal(epoch, (heir or '') .. '|' .. fields, 8)
end

function read.pool_book(key)
  local epoch, sealed, heir = unpack(redis.call('HMGET', key, '#epoch', '#seal', '#dead'))
  if not epoch and not sealed then return {heir = false} end
  if epoch and sealed and #epoch <= 100 and #(heir or '') <= 100
    and (not heir or read.next_dead(key, heir) ~= nil)
    and read.pool_seal(epoch, heir, redis.call('HLEN', key)) == sealed then
    return {epoch = epoch, heir = heir}
  end
  return {heir = false, damaged = true}
end

-- The dead worker that is to be swept up after this one, false for none, nil where nobody can tell.
function read.next_dead(key, name)
  local text = redis.call('HGET', key, '#dead:' .. name)
  local after = text and #text <= 100 and string.sub(text, 1, -1 - read.SEAL_BYTES)
  if not after or after .. read.seal(name, after) ~= text then return nil end
  return after ~= '' and after
end

-- Whether a few of the counts, chosen at random, are as they were written: damage is found before its client comes.
function read.is_sound(key)
  local found = redis.call('HRANDFIELD', key, read.SAMPLED, 'WITHVALUES')
  for i = 1, #found, 2 do
    if string.sub(found[i], 1, 1) ~= '#' and not read.count(found[i], found[i + 1]) then return false end
  end
  return true
end

-- What the pool counts under `keys` beside the worker with the claims `own`, less a part of a dead worker's claims
-- `swept`, and the keys of that part; nil where any of these counts is not as it was written.
function read.sums(claims, keys, own, swept)
  local named, once, theirs, sums, gone = {}, {}, {}, {}, {}
  for i, key in ipairs(keys) do named[i], once[key] = key, true end
  local found = swept and redis.call('HRANDFIELD', swept, SWEPT_PER_CALL + 2, 'WITHVALUES') or {}
  for i = 1, #found, 2 do
    local key = found[i]
    if key ~= '#epoch' and key ~= '#since' then
      theirs[key] = read.count(key, found[i + 1])
      if not theirs[key] then return nil end
      gone[#gone + 1] = key
      if not once[key] then named[#named + 1] = key end
    end
  end
  if #named == 0 then return sums, gone end
  local mine = own and #keys > 0 and redis.call('HMGET', own, unpack(keys)) or {}
  for i, text in ipairs(redis.call('HMGET', claims, unpack(named))) do
    local key = named[i]
    local all, ours = read.count(key, text), read.count(key, mine[i])
    local rest = all and ours and all - ours - (theirs[key] or 0)
    if not rest or rest < 0 then return nil end
    sums[key] = rest
  end
  return sums, gone
end

-- The pool's own fields, in the order of OWN, if all of them are there and as they were written.
function read.state(fields)
  for i = 1, #OWN do
    if not fields[i] then return nil end
  end
  local state = {counters = fields[7], alert = fields[9], pace = read.pace(fields[10])}
  if #state.counters > read.COUNTERS_BYTES or #state.alert > read.ALERT_BYTES then return nil end
  for i, name in ipairs({'total', 'version', 'clock', 'real', 'settled', 'limit'}) do
    state[name] = read.number(fields[i])
    if not state[name] then return nil end
  end
  state.draining = read.number(fields[8])
  local is_ours = read.seal('', table.concat(fields, '\n', 1, #OWN - 1), 8) == fields[#OWN]
  return is_ours and state.draining and state.pace and state or nil
end

function read.pace(text)
  local parts = {}
  if #text > 200 then return nil end
  for part in string.gmatch(text, '[^|]+') do
    parts[#parts + 1] = read.decimal(part)
  end
  return #parts == 7 and parts or nil
end

function read.pace_text(...)
  local parts = {...}
  for i, part in ipairs(parts) do parts[i] = string.format('%.17g', math.max(0, math.min(part, read.LARGEST))) end
  return table.concat(parts, '|')
end

-- Controls that have their seal; else none.
function read.sealed(text, seal)
  local is_right = text and #text <= CONTROLS_BYTES and seal == string.sub(redis.sha1hex(text), 1, 8)
  return is_right and text or ''
end

-- The value of each order in controls: NAME=VALUE,AT,BY, or VALUE/OVER.
function read.orders(text)
  local orders = {}
  for entry in string.gmatch(text, ';([^;]+)') do
    local name, value, at, by = string.match(entry, '^([a-z_]+)=([^,]*),([^,]*),([^,]*)$')
    if name and #value <= 20 and string.find(at, '^[%d.]+$') and string.find(by, '^[%w._~%%-]*$') then
      orders[name] = orders[name] or string.match(value, '^(%d+)/?[%d.]*$')
    end
  end
  return orders
end

-- The highest version of the pool at which a drain was ordered: no worker that registers later may have a lower one.
function read.last_order(text)
  local last = 0
  for entry in string.gmatch(text, ';([^;]+)') do
    last = math.max(last, read.number(string.match(entry, '^drain:[^=]*=(%d+):')) or 0)
  end
  return last
end

-- A worker's name without its host, which all of a home share.
local function place_of(name)
  return string.match(name, ':(.*)$') or name
end

local function tally(text)
  local of = {}
  if #text > read.COUNTERS_BYTES then return of end
  for part in string.gmatch(text, '[^,]+') do
    if #part <= read.COUNTER_BYTES then
      local name, count = string.match(part, '^([^=]+)=(%d+)$')
      if name then of[name] = read.number(count) end
    end
  end
  return of
end

local function counter(name, count)
  return name .. '=' .. string.format('%.0f', count)
end

-- Counters that have risen since they were `before`, and by how much.
local function rises_since(before)
  local old, rises = tally(before), {}
  for name, count in pairs(tally(counters)) do
    local rise = count - (old[name] or 0)
    if rise > 0 then rises[name] = rise end
  end
  return rises
end

local function add_to(sums, rises)
  local sum, parts, names = tally(sums), {}, 0
  for _ in pairs(sum) do names = names + 1 end
  for name, rise in pairs(rises) do
    if not sum[name] then names = names + 1 end
    if sum[name] or names <= read.COUNTERS_KEPT then sum[name] = math.min((sum[name] or 0) + rise, read.LARGEST - 1) end
  end
  for name, count in pairs(sum) do parts[#parts + 1] = counter(name, count) end
  return table.concat(parts, ',')
end

local function is_decision(name)
  return not NO_HANDSHAKES[name] and string.sub(name, 1, 4) ~= 'dry:' and string.sub(name, 1, 6) ~= 'fault:'
end

local function add(decided, moment, name, count)
  local of = decided[moment] or {}
  decided[moment], of[name] = of, (of[name] or 0) + count
end

-- Deal `count` handshakes out over the `span` seconds that end with `last`, as far as they reach.
local function spread(name, count, last, span, by_second, by_minute)
  span = math.min(span, count)
  local least, more = math.floor(count / span), count % span
  for i = 1, span do
    local second, share = last - i + 1, i <= more and least + 1 or least
    add(by_second, second, name, share)
    add(by_minute, math.floor(second / 60), name, share)
  end
end

-- Reasons as counters, the most frequent first, in `room` bytes.
local function listed(refused, room)
  local names, parts, sum, length = {}, {}, 0, -1
  for name in pairs(refused) do names[#names + 1] = name end
  table.sort(names, function(a, b)
    if refused[a] ~= refused[b] then return refused[a] > refused[b] end
    return a < b
  end)
  for i, name in ipairs(names) do
    parts[i], sum = counter(name, refused[name]), sum + refused[name]
    length = length + 1 + #parts[i]
  end
  if length <= room then return table.concat(parts, ',') end
  local kept, other = {}, 0
  room = room - #counter('other', sum)
  for i, name in ipairs(names) do
    if name ~= 'other' and #parts[i] < room then
      kept[#kept + 1], room = parts[i], room - #parts[i] - 1
    else
      other = other + refused[name]
    end
  end
  kept[#kept + 1] = counter('other', other)
  return table.concat(kept, ',')
end

-- Add to a ring's moments what was decided in each (moment -> name -> count), and to the one that runs what is held.
local function remember(ring, kept, now, held, limit, decided)
  local moments, places, fields = {}, {}, {}
  for moment in pairs(decided) do
    moments[#moments + 1] = moment
    places[#places + 1] = moment % kept
  end
  for i, value in ipairs(redis.call('HMGET', ring, unpack(places))) do
    local moment, news = moments[i], decided[moments[i]]
    local text = value and #value <= LONGEST_MOMENT and value or ''
    local at, most, bound, admitted, reasons = string.match(text, '^(%d+)|(%d*)|(%d*)|(%d+)|(.*)$')
    admitted = read.number(admitted)
    local is_known = read.number(at) == moment and admitted
    most, bound = read.number(is_known and most, MOST_SLOTS), read.number(is_known and bound, MOST_SLOTS)
    if not is_known then admitted, reasons = 0, '' end
    local is_new = not is_known or next(news)
    if moment == now and (held > (most or -1) or limit ~= bound) then
      most, bound, is_new = math.max(held, most or 0), limit, true
    end
    if is_new then
      local refused = tally(reasons)
      for name, count in pairs(news) do
        if name == 'admitted' then admitted = admitted + count else refused[name] = (refused[name] or 0) + count end
      end
      text = string.format('%d|%s|%s|%.0f|', moment, most or '', bound or '', admitted)
      fields[#fields + 1] = places[i]
      fields[#fields + 1] = text .. listed(refused, LONGEST_MOMENT - #text)
    end
  end
  if #fields > 0 then redis.call('HSET', ring, unpack(fields)) end
end

-- Pace time that has passed, `elapsed` ms after the pace began.
local function paced(elapsed)
  if elapsed < ramp then return elapsed * elapsed / (2 * ramp) end
  return elapsed - ramp / 2
end

-- The version of controls; 0 where they are none of ours.
local function controls_version(text)
  return #text <= CONTROLS_BYTES and read.number(string.match(text, '^%d+'), read.LATEST) or 0
end

-- The settings of the pool's workers: parsed from '#settings', with those of this worker, and the strictest of all.
local settings = {GREATEST = {lease = true, beat = true}, MOST = 8, LONGEST = 4096, parting = ARGV[17] ~= '0'}

function settings.numbers(text)
  local numbers = {}
  for part in string.gmatch(text, '[^,]+') do
    local name, number = string.match(part, '^([^=]+)=(%d+%.?%d*)$')
    if name and #number <= 19 then numbers[name] = tonumber(number) end
  end
  return numbers
end

-- Let `numbers` be the strictest of themselves and `others`.
function settings.narrow(numbers, others)
  for name, number in pairs(others) do
    local pick = settings.GREATEST[name] and math.max or math.min
    numbers[name] = pick(numbers[name] or number, number)
  end
  return numbers
end

function settings.text(numbers)
  local parts = {}
  for name, number in pairs(numbers) do
    local digits = string.format('%.9f', number)
    parts[#parts + 1] = name .. '=' .. string.gsub(string.gsub(digits, '0+$', ''), '%.$', '')
  end
  table.sort(parts)
  return table.concat(parts, ',')
end

function settings.entry(text, ends, mark)
  local numbers = settings.numbers(text)
  if #text > settings.LONGEST or not (numbers.limit and numbers.warn_at and numbers.lease and numbers.beat) then
    return nil
  end
  return {text = text, ends = ends, mark = mark or string.sub(redis.sha1hex(text), 1, 8), numbers = numbers}
end

-- What is stored; an entry that is none of ours is dropped.
function settings.parse(stored)
  local entries = {}
  if #stored > 2 * settings.MOST * settings.LONGEST then return entries end
  for part in string.gmatch(stored, '[^;]+') do
    local ends, mark, text = string.match(part, '^(%d+)|(%x+)|(.*)$')
    if ends and #ends <= 15 and string.sub(redis.sha1hex(text), 1, 8) == mark then
      entries[#entries + 1] = settings.entry(text, tonumber(ends), mark)
    end
  end
  return entries
end

-- Read what is stored, before the pool's clock moves.
function settings.read(stored)
  local own, heard = string.match(ARGV[27], '^([^;]*);(.*)$')
  local mark, text = string.match(own, '^(%x+)|(.*)$')
  settings.own, settings.heard, settings.stored = {text = text, mark = mark}, heard, stored or ''
  local ends, rest = string.match(string.sub(settings.stored, 1, settings.LONGEST), '^(%d+)|(.*);$')
  if rest == own and #ends <= 15 and heard == '' then
    -- All have the same, as nearly always: nothing need be compared.
    settings.alone, settings.fastest, settings.slowest = tonumber(ends), beat, beat
    settings.numbers_of_all = {limit = configured, beat = beat, warn_at = tonumber(string.match(text, 'warn_at=([%d.]+)'))}
    return
  end
  settings.entries, settings.fastest = settings.parse(settings.stored), beat
  for _, each in ipairs(settings.entries) do settings.fastest = math.min(settings.fastest, each.numbers.beat) end
end

-- Agree at this time of the pool's clock on what is in force; a pool that has lost its data hears of what was.
function settings.agree(clock, lost)
  settings.differ = ''
  if settings.alone then return end
  local own, kept, known = settings.own, {}, nil
  for _, each in ipairs(settings.entries) do
    each.ends = math.min(each.ends, clock + each.numbers.lease)
    if lost then each.ends = clock + 1.5 * each.numbers.beat end
    if each.text == own.text then known = each elseif each.ends > clock then kept[#kept + 1] = each end
  end
  if lost and settings.heard ~= '' then
    local before = settings.entry(settings.heard, clock)
    if before then
      before.ends = clock + math.min(1.5 * before.numbers.beat, before.numbers.lease)
      kept[#kept + 1] = before
    end
  end
  known = known or settings.entry(own.text, clock, own.mark)
  settings.slowest = 0
  for _, each in ipairs(kept) do settings.slowest = math.max(settings.slowest, each.numbers.beat) end
  local was = known.ends
  settings.is_slower = #kept > 0 and known.numbers.beat > settings.slowest and was <= clock
  settings.slowest = math.max(settings.slowest, known.numbers.beat)
  known.ends = clock + known.numbers.lease
  if settings.parting then known.ends = math.min(was, clock + 1.5 * settings.slowest) end
  if known.ends > clock or #kept == 0 then kept[#kept + 1] = known end
  while #kept > settings.MOST do
    table.sort(kept, function(a, b) return a.ends < b.ends end)
    local oldest = table.remove(kept, 1)
    local merged = settings.text(settings.narrow(settings.narrow({}, oldest.numbers), kept[1].numbers))
    kept[1] = settings.entry(merged, math.max(oldest.ends, kept[1].ends)) or kept[1]
  end
  local all, parts = {}, {}
  for i, each in ipairs(kept) do
    settings.narrow(all, each.numbers)
    parts[i] = string.format('%.0f|%s|%s;', each.ends, each.mark, each.text)
  end
  settings.numbers_of_all, settings.written = all, table.concat(parts)
  local text = settings.text(all)
  if text ~= settings.text(known.numbers) then settings.differ = text end
end

-- What is to be stored. While all have the same, that is renewed four times in a beat at the most.
function settings.store(clock)
  if not settings.alone then return settings.written end
  local ends = settings.parting and math.min(settings.alone, clock + 1.5 * beat) or clock + lease
  if not settings.parting and math.abs(ends - settings.alone) < beat / 4 then return settings.stored end
  return string.format('%.0f|%s|%s;', ends, settings.own.mark, settings.own.text)
end

-- How near the pool is to its limit: a level is reached at its threshold, and left well below it.
local function level_of(held, limit, before)
  for place, threshold in ipairs({1, CRITICAL_AT, settings.numbers_of_all.warn_at}) do
    local level = 4 - place
    if level <= before then threshold = threshold - HYSTERESIS end
    if held >= threshold * limit then return level end
  end
  return 0
end

-- What stands ---------------------------------------------------------------------------------------------------------

-- What operators have set, as Redis or this worker knows it, the newer of both. An altered text sets nothing.
local stored = read.sealed(unpack(redis.call('HMGET', controls, 'set', 'seal')))
local set = controls_version(stored) < controls_version(known) and known or stored
if controls_version(set) == 0 then set = '0' end
local limit, paused = nil, false
do
  local orders = read.orders(set)
  limit, paused = read.number(orders.limit, MOST_SLOTS), orders.paused == '1'
end

-- The pool's own fields, this worker's record, and those of the next to be looked at, in one read.
local total, version, clock, real, settled, sums, pace, drainers, alert, record
local workers, looked_at, looks, healed = redis.call('LLEN', leases), {}, {}, false
do
  local next_ones = redis.call('LRANGE', leases, 0, LOOKED_AT - 1)
  local fields = {worker}
  for i, name in ipairs(next_ones) do fields[i + 1] = name end
  for _, name in ipairs(OWN) do fields[#fields + 1] = name end
  local found = redis.call('HMGET', counts, unpack(fields))
  local state = read.state({unpack(found, #next_ones + 2, #fields)})
  local length = redis.call('HLEN', counts)
  settings.read(found[#fields - 1])
  local is_whole = state and length == workers + #OWN
  record = read.record(worker, found[1])
  if found[1] and not record then is_whole = false end
  if record and is_beat and seq % math.ceil(workers / read.SEARCHED) == 0 then
    is_whole = is_whole and redis.call('LPOS', leases, worker)
  end
  for i, name in ipairs(next_ones) do
    local theirs = found[i + 1]
    -- The first is compared with its seal, the others only where their lease may have run out, or ends later than this
    -- worker's own would: no altered end keeps a dead worker for longer than a lease.
    local ends = i > 1 and theirs and #theirs <= read.RECORD_BYTES and string.match(theirs, '^%d+|%d+|%d+|(%d+)|')
    ends = read.number(ends)
    local lives = state and ends and ends > state.clock + 2 * beat and ends <= state.clock + lease
    looked_at[i], looks[i] = name, lives and {ends = ends} or read.record(name, theirs)
    if theirs and not looks[i] then is_whole = false end
  end
  if is_whole then
    total, version, clock, real, settled = state.total, state.version, state.clock, state.real, state.settled
    sums, pace, drainers, alert = state.counters, state.pace, state.draining, state.alert
  else
    -- Missing, torn (a key evicted, a field deleted) or damaged: start over, the living report themselves again.
    healed = length + workers > 0
    redis.call('DEL', counts, leases)
    total, version, clock, real, workers, looked_at = 0, read.last_order(set), now, now, 0, {}
    settled, sums, drainers, alert, record = now, '', 0, '0|', nil
  end
end
local fresh = not pace

-- The pool's clock never runs backwards, and one call moves it by two beats at most, of the worker with the shortest.
clock = clock + math.max(0, math.min(now - real, 2 * settings.fastest))

-- A worker knows more than the ledger: acknowledged writes were lost. Until the slowest heartbeat has been heard, and
-- half of one more, counts may be low.
local behind = seen_version > version
settings.agree(clock, fresh or behind)
local settling_time = math.floor(1.5 * settings.slowest)
if fresh or behind or (clock < settled and settings.is_slower) then
  settled = math.max(settled, clock + settling_time)
end
if behind then version = seen_version end
configured = settings.numbers_of_all.limit
limit = limit or configured
if settings.numbers_of_all.rate then
  rate, burst = settings.numbers_of_all.rate / 1000, settings.numbers_of_all.burst or burst
end

local counted, last, drained, started, before, told_at = 0, 0, 0, now - age, '', nil
if record then
  counted, last, drained, told_at = record.held, record.seq, record.draining, record.seen
  started, before = record.started, record.counters
elseif not fresh then
  before = acknowledged
end
if seq <= last then return {'out of order', seq, last} end

-- What is kept of claims, and this worker's own. Where a part of it is lost or not as it was written, a new epoch
-- begins.
-- A worker that was forgotten takes another name while its claims are being swept up under the old one.
local epoch, since, heir, retell = nil, nil, false, false
local keys, mine, sum, swept_up = {}, {}, {}, {}
if SHARED then
  for at = 1, #ARGV[33], 19 do
    keys[#keys + 1], mine[#mine + 1] = struct.unpack('>c15I4', ARGV[33], at)
  end
  local book = read.pool_book(claims)
  epoch, heir = book.epoch, book.heir
  local own_epoch, own_since = read.book(worker, own)
  local theirs = swept and heir == dead_worker and read.book(dead_worker, swept)
  local is_right = fresh or not book.damaged
  if is_right and record and epoch then
    local length = redis.call('HLEN', own)
    if own_epoch then is_right = own_epoch ~= epoch or length - 2 == record.claimed else is_right = length == 0 end
  end
  if is_right and is_beat and not fresh and epoch then is_right = read.is_sound(claims) end
  if is_right and not fresh and epoch then
    sum, swept_up = read.sums(claims, keys, own_epoch == epoch and own, theirs == epoch and swept)
    is_right = sum ~= nil
  end
  if is_right and not record and not fresh and epoch and own_epoch == epoch then return {'forgotten', seq} end
  if fresh or not epoch or not is_right or (record and not own_epoch) or (own_epoch == epoch and last < heard)
    or (swept and heir == dead_worker and not theirs) then
    redis.call('UNLINK', claims, KEYS[10])
    epoch, heir, sum, swept_up = table.concat({now, place_of(worker), seq}, '-'), false, {}, {}
    settled, healed = math.max(settled, clock + settling_time), healed or not is_right
  elseif theirs and theirs ~= epoch then
    redis.call('UNLINK', swept)
  end
  if own_epoch ~= epoch then redis.call('UNLINK', own) end
  since = own_epoch == epoch and own_since or seq
  for i, key in ipairs(keys) do sum[key] = (sum[key] or 0) + mine[i] end
  retell = heard > 0 and heard < since
end

-- Handshakes are spread evenly over the seconds since the worker's last report, one second in a herd.
-- When those of a worker that the ledger has forgotten were decided, nobody knows.
if not record and seen_version == 0 then told_at = now - age end
local second, minute = math.floor(now / 1000), math.floor(now / 60000)
local by_second, by_minute = {[second] = {}}, {[minute] = {}}
local rises = counters ~= before and rises_since(before) or {}
if told_at then
  local span = math.max(1, math.min(second - math.floor(told_at / 1000), LONGEST_SPREAD))
  for name, rise in pairs(rises) do
    if is_decision(name) then spread(name, rise, second, span, by_second, by_minute) end
  end
end

-- Who is gone ---------------------------------------------------------------------------------------------------------

-- One whose record is damaged is not touched: when its turn to be looked at comes, all start over.
local dead = {}
for i, name in ipairs(looked_at) do
  if not looks[i] or looks[i].ends <= clock then dead[#dead + 1] = name end
end
if #dead > 0 then
  local names = redis.call('LRANGE', leases, #looked_at, #looked_at + REAPED_PER_CALL - 1)
  for i, theirs in ipairs(#names > 0 and redis.call('HMGET', counts, unpack(names)) or {}) do
    if #dead == REAPED_PER_CALL then break end
    local was = read.record(names[i], theirs)
    if theirs and not was then break end
    looked_at[#looked_at + 1] = names[i]
    if not was or was.ends <= clock then dead[#dead + 1] = names[i] end
  end
end
for i = FIRST_GONE, #ARGV do
  if redis.call('HGET', home, place_of(ARGV[i])) then dead[#dead + 1] = ARGV[i] end
end
local reaped, once = {}, {[worker] = true}
for _, name in ipairs(dead) do
  if not once[name] then
    once[name] = true
    reaped[#reaped + 1] = name
  end
end
local freed, leaving, with_claims = 0, 0, {}
if #reaped > 0 then
  local left = {}
  for i, theirs in ipairs(redis.call('HMGET', counts, unpack(reaped))) do
    local was = read.record(reaped[i], theirs)
    if was then
      freed, leaving, drainers = freed + was.held, leaving + 1, drainers - was.draining
      if SHARED and was.claimed > 0 then with_claims[#with_claims + 1] = reaped[i] end
    end
    if was or not theirs then left[#left + 1] = reaped[i] end
  end
  reaped = left
end

-- What is granted -----------------------------------------------------------------------------------------------------

local others = total - counted - freed

local room = limit - others - held
if clock < settled then room = math.min(room, allowance - held) end
if paused then room = 0 end

local classes, quotas, asks = {}, {}, {}
if SHARED then
  for name, share, slots in string.gmatch(ARGV[29], '([^:,]*):([^:,]+):(%d+)') do
    local most = tonumber(share) and math.floor(tonumber(share) * limit + ROUNDING) or math.huge
    local theirs = settings.numbers_of_all['share:' .. name]
    if theirs then most = math.min(most, math.floor(theirs * limit + ROUNDING)) end
    classes[#classes + 1] = {name = name, most = most, held = tonumber(slots)}
  end
  for percent, most in string.gmatch(ARGV[30], '(%%?)([^,]+)') do
    quotas[#quotas + 1] = percent == '' and tonumber(most) or math.floor(tonumber(most) * limit + ROUNDING)
  end
  local quota = 0
  for name in string.gmatch(settings.own.text, ',quota%%?:([^=,]+)=') do
    quota = quota + 1
    local most, share = settings.numbers_of_all['quota:' .. name], settings.numbers_of_all['quota%:' .. name]
    if most and quotas[quota] then quotas[quota] = math.min(quotas[quota], most) end
    if share and quotas[quota] then quotas[quota] = math.min(quotas[quota], math.floor(share * limit + ROUNDING)) end
  end
  local text, at = ARGV[34], 1
  while at <= #text do
    local class, kind, number = string.byte(text, at, at + 2)
    local ask = {class = classes[class + 1], late = kind > 0, bounded = kind < 2}
    at = at + 3
    for i = 1, number do
      local quota, where = struct.unpack('>BI2', text, at)
      ask[i] = {quota = quota + 1, place = where + 1}
      at = at + 3
    end
    asks[#asks + 1] = ask
  end
end

-- Attempts: a bucket for each key, in sets of bounded size that the key's first bytes choose. A refused attempt is given
-- the next turn of its key; one whose turns reach as far as the longest hint is locked.
-- A set that is none of ours is taken to be empty, and so is a bucket that lacks more than any may.
local attempts = {
  key = KEYS[9], sets = 1024, ways = 8, bytes = 31, longest = 7200000, rates = {},
  verdicts = {}, waits = {}, written = {},
}

function attempts.set_of(key)
  local high, low = string.byte(key, 1, 2)
  return (high * 256 + low) % attempts.sets
end

-- The buckets of the sets that these attempts need, by set and key; only those that are not full.
function attempts.read(tries)
  local names, sets = {}, {}
  for _, each in ipairs(tries) do
    local name = attempts.set_of(each.key)
    if not sets[name] then sets[name], names[#names + 1] = {}, name end
  end
  for i, text in ipairs(redis.call('HMGET', attempts.key, unpack(names))) do
    if text and #text % attempts.bytes == 0 and #text <= attempts.ways * attempts.bytes then
      for at = 1, #text, attempts.bytes do
        local key, full, turn = struct.unpack('>c15dd', text, at)
        local is_alive = full > clock or turn > clock
        if is_alive and full <= clock + attempts.longest and turn <= clock + attempts.longest then
          sets[names[i]][key] = {full, turn}
        end
      end
    end
  end
  return sets
end

-- Count attempts under one key; 0 where the last one passes, else ms until its turn.
function attempts.take(buckets, key, terms, number)
  local full, turn = unpack(buckets[key] or {clock, clock})
  local kept, least, soonest = 0, nil, nil
  if not (full > clock and full <= clock + terms.burst / terms.rate) then full = clock end
  if not (turn > clock and turn <= clock + retry_high) then turn = clock end
  local is_locked = turn > clock and turn + 1 / terms.rate > clock + retry_high + 1000 * ROUNDING
  local passed = math.max(0, math.floor(terms.burst - (full - clock) * terms.rate + ROUNDING))
  passed = is_locked and 0 or math.min(number, passed)
  full = full + passed / terms.rate
  local refused = number - passed
  if refused > 0 then
    local first = full + (1 - terms.burst) / terms.rate
    local after = turn > clock and turn + refused / terms.rate or clock
    turn = math.min(math.max(after, first + (refused - 1) / terms.rate), clock + retry_high)
  end
  for other, theirs in pairs(buckets) do
    if other ~= key then
      local ends = math.max(theirs[1], theirs[2])
      kept = kept + 1
      if not least or ends < soonest or (ends == soonest and other < least) then least, soonest = other, ends end
    end
  end
  if kept >= attempts.ways then buckets[least] = nil end
  buckets[key] = {full, turn}
  return refused > 0 and math.max(1000 * ROUNDING, turn - clock) or 0
end

-- Count those of the report; an ask that one quota refuses is not counted with those after it.
function attempts.judge(tries)
  local sets = attempts.read(tries)
  for _, each in ipairs(tries) do
    local terms, name = attempts.rates[each.quota], attempts.set_of(each.key)
    if terms and not attempts.verdicts[each.ask] then
      local wait = attempts.take(sets[name], each.key, terms, each.number)
      attempts.written[name] = sets[name]
      if wait > 0 and each.ask > 0 then
        attempts.verdicts[each.ask] = string.char(80 + each.quota)
        attempts.waits[#attempts.waits + 1] = string.format('%.17g', wait)
      end
    end
  end
end

function attempts.write()
  local fields = {}
  for name, buckets in pairs(attempts.written) do
    local parts = {}
    for key, both in pairs(buckets) do parts[#parts + 1] = struct.pack('>c15dd', key, both[1], both[2]) end
    fields[#fields + 1], fields[#fields + 2] = name, table.concat(parts)
  end
  if #fields > 0 then redis.call('HSET', attempts.key, unpack(fields)) end
end

if SHARED and ARGV[36] ~= '' then
  if fresh then redis.call('UNLINK', attempts.key) end
  local quota, tries = 0, {}
  for per_second, most in string.gmatch(ARGV[36] .. ',', '([^,~]+)~?(%d*),') do
    if most ~= '' then attempts.rates[quota] = {rate = tonumber(per_second) / 1000, burst = tonumber(most)} end
    quota = quota + 1
  end
  quota = 0
  for name in string.gmatch(settings.own.text, ',quota%%?:([^=,]+)=') do
    local terms = attempts.rates[quota]
    local slowest, most = settings.numbers_of_all['attempts:' .. name], settings.numbers_of_all['at_once:' .. name]
    if terms and slowest and most then terms.rate, terms.burst = slowest / 1000, most end
    quota = quota + 1
  end
  for at = 1, #ARGV[37], 20 do
    local number, place, count, key = struct.unpack('>I2BI2c15', ARGV[37], at)
    tries[#tries + 1] = {ask = number, quota = place, number = count, key = key}
  end
  if #tries > 0 then attempts.judge(tries) end
end

-- The slots under a key, and since when each is held, in quotas whose oldest connection gives way. The oldest ones are
-- beyond the maximum; each worker is told how many of its own, for as long as they are counted. A field that is not as it
-- was written is taken to be empty.
local holders = {
  key = KEYS[10], oldest = ARGV[38], offset = 1e12, bytes = 16384, posted_most = 200,
  of = {}, changed = {}, posted = {}, due = {}, dead = {[worker] = false},
}

function holders.parse(key, text)
  local found = {most = 0, parts = {}, number = 0}
  if not text or #text > holders.bytes then return found end
  local plain = string.sub(text, 1, -1 - read.SEAL_BYTES)
  if plain .. read.seal(key, plain) ~= text then return found end
  found.most = read.number(string.match(plain, '^%d+')) or 0
  for name, times in string.gmatch(plain, ';([^;=]+)=([%d,]+)') do
    local list = {}
    for time in string.gmatch(times, '%d+') do list[#list + 1] = tonumber(time) end
    found.parts[name], found.number = list, found.number + #list
  end
  return found
end

function holders.load(keys)
  local missing = {}
  for _, key in ipairs(keys) do
    if not holders.of[key] then missing[#missing + 1], holders.of[key] = key, {} end
  end
  if #missing == 0 then return end
  for i, text in ipairs(redis.call('HMGET', holders.key, unpack(missing))) do
    holders.of[missing[i]] = holders.parse(missing[i], text)
  end
end

function holders.replace(key, name, list)
  local found = holders.of[key]
  if not (found.parts[name] or list) then return end
  found.number = found.number - #(found.parts[name] or {}) + #(list or {})
  found.parts[name], holders.changed[key] = list, true
end

-- What this worker says of its own slots, and no more of a dead worker's that are swept up.
function holders.tell()
  holders.load(keys)
  holders.load(swept_up)
  for _, key in ipairs(swept_up) do holders.replace(key, dead_worker, nil) end
  for _, key in ipairs(keys) do holders.replace(key, worker, nil) end
  local at = 1
  while at <= #ARGV[39] do
    local where, quota, number, list = 0, 0, 0, {}
    where, quota, number, at = struct.unpack('>I2BI2', ARGV[39], at)
    for i = 1, number do
      list[i] = clock + holders.offset - struct.unpack('>I4', ARGV[39], at)
      at = at + 4
    end
    holders.of[keys[where + 1]].most = quotas[quota + 1]
    holders.replace(keys[where + 1], worker, list)
  end
end

function holders.gives_way(quota)
  return string.sub(holders.oldest, quota, quota) == '1'
end

-- Whether one more than `count` slots may be counted: as far as it is known who gives way, and never twofold.
function holders.allow(claim, count)
  local most = quotas[claim.quota]
  if clock < settled or not holders.gives_way(claim.quota) then return false end
  return count + 1 - most <= math.min(holders.of[keys[claim.place]].number, most)
end

function holders.grant(claim)
  if not holders.gives_way(claim.quota) then return end
  local key = keys[claim.place]
  local list = {}
  for i, since in ipairs(holders.of[key].parts[worker] or {}) do list[i] = since end
  list[#list + 1] = clock + holders.offset
  holders.of[key].most = quotas[claim.quota]
  holders.replace(key, worker, list)
end

-- Whether the claims of a worker are still to be swept up. It may go on under another name, and tell the same slots.
function holders.is_dead(name)
  if holders.dead[name] == nil then
    holders.dead[name] = redis.call('HGET', claims, '#dead:' .. name) and true or false
  end
  return holders.dead[name]
end

-- How many of the oldest each worker has to end, of `count`; the dead end none, and none ends for theirs.
function holders.evicted(key, count)
  local excess, everyone, numbers = count - holders.of[key].most, {}, {}
  if excess <= 0 or holders.of[key].number == 0 then return numbers end
  for name, list in pairs(holders.of[key].parts) do
    if holders.is_dead(name) then
      excess = excess - #list
    else
      for _, since in ipairs(list) do everyone[#everyone + 1] = {since, name} end
    end
  end
  table.sort(everyone, function(a, b)
    if a[1] ~= b[1] then return a[1] < b[1] end
    return a[2] < b[2]
  end)
  for i = 1, math.min(excess, #everyone) do
    local name = everyone[i][2]
    numbers[name] = (numbers[name] or 0) + 1
  end
  return numbers
end

-- The keys under which a worker is told to end connections.
function holders.mailbox(text)
  local posted = {}
  if not text or #text > 15 * holders.posted_most or #text % 15 > 0 then return posted end
  for at = 1, #text, 15 do posted[#posted + 1] = string.sub(text, at, at + 14) end
  return posted
end

-- Post to others, and answer this worker, what is to be ended now that `sum` is counted.
function holders.settle(sum)
  for _, name in ipairs(with_claims) do holders.dead[name] = true end
  local mailbox = holders.mailbox(redis.call('HGET', holders.key, '@' .. worker))
  holders.load(mailbox)
  local all, once, mine, counted = {}, {}, {}, {}
  for _, list in ipairs({keys, swept_up, mailbox}) do
    for _, key in ipairs(list) do
      if not once[key] then all[#all + 1], once[key] = key, true end
    end
  end
  if #all == 0 then return end
  for i, text in ipairs(redis.call('HMGET', claims, unpack(all))) do
    counted[all[i]] = sum[all[i]] or read.count(all[i], text) or 0
  end
  for _, key in ipairs(all) do
    for name, number in pairs(holders.evicted(key, counted[key])) do
      if name ~= worker then
        holders.posted[name] = holders.posted[name] or {}
        table.insert(holders.posted[name], key)
      elseif #mine < holders.posted_most then
        mine[#mine + 1] = key
        local hex = string.gsub(key, '.', function(byte) return string.format('%02x', string.byte(byte)) end)
        holders.due[#holders.due + 1] = hex .. '=' .. number
      end
    end
  end
  local fields, gone = {}, {}
  for key in pairs(holders.changed) do
    local found = holders.of[key]
    local parts = {string.format('%.0f', found.most)}
    for name, list in pairs(found.parts) do
      local times = {}
      for i, since in ipairs(list) do times[i] = string.format('%.0f', since) end
      parts[#parts + 1] = name .. '=' .. table.concat(times, ',')
    end
    local text = table.concat(parts, ';')
    if found.number > 0 then
      fields[#fields + 1], fields[#fields + 2] = key, text .. read.seal(key, text)
    else
      gone[#gone + 1] = key
    end
  end
  for name, posted in pairs(holders.posted) do
    local theirs, has = holders.mailbox(redis.call('HGET', holders.key, '@' .. name)), {}
    for _, key in ipairs(theirs) do has[key] = true end
    for _, key in ipairs(posted) do
      if not has[key] and #theirs < holders.posted_most then theirs[#theirs + 1] = key end
    end
    fields[#fields + 1], fields[#fields + 2] = '@' .. name, table.concat(theirs)
  end
  if #mine > 0 then
    fields[#fields + 1], fields[#fields + 2] = '@' .. worker, table.concat(mine)
  elseif #mailbox > 0 then
    gone[#gone + 1] = '@' .. worker
  end
  if #fields > 0 then redis.call('HSET', holders.key, unpack(fields)) end
  if #gone > 0 then redis.call('HDEL', holders.key, unpack(gone)) end
end

-- A dead worker may have had such a quota where the one that sweeps up after it has none.
if SHARED then
  holders.is_needed = holders.oldest ~= '' or (dead_worker ~= '' and redis.call('HLEN', holders.key) > 0)
  if holders.is_needed then holders.tell() end
end

-- The verdicts on the asks, one after the other, with so many tokens; how many of them were used, the slots given, and
-- the claims granted by their place.
local function decide(tokens)
  local verdicts, used, given, granted = {}, 0, 0, {}
  for i, ask in ipairs(asks) do
    local verdict, slot = attempts.verdicts[i] or 'a', ask.late and 0 or 1
    if verdict ~= 'a' then
      -- decided
    elseif paused and slot == 1 then
      verdict = 'p'
    elseif ask.class.most < math.huge then
      if ask.bounded and others + held + given + slot > ask.class.most then
        verdict = others + held + given + slot > limit and 'f' or 's'
      elseif slot == 1 and clock < settled and held + given >= allowance then
        verdict = 't'
      end
      for _, claim in ipairs(ask) do
        if verdict ~= 'a' then break end
        local most, more = quotas[claim.quota], granted[claim.place] or 0
        local count = sum[keys[claim.place]] + more
        if count >= most and not holders.allow(claim, count) then
          verdict = string.char(64 + claim.quota)
        elseif clock < settled and mine[claim.place] + more >= (parts > 0 and math.floor(most / parts) or 0) then
          verdict = 't'
        end
      end
      if verdict == 'a' and slot == 1 then
        if used >= tokens then verdict = 'r' else used = used + 1 end
      end
    end
    if verdict == 'a' then
      given = given + slot
      for _, claim in ipairs(ask) do granted[claim.place] = (granted[claim.place] or 0) + 1 end
    end
    verdicts[i] = verdict
  end
  return verdicts, used, given, granted
end

local verdicts, used, given, granted_claims = {}, 0, 0, {}
if SHARED then
  verdicts, used, given, granted_claims = decide(math.huge)
  room = used
end

-- The pace starts anew, slowly, after a loss of data and, with a ramp, as an empty pool is entered.
local began, full_at, tail, outflow, measured_at, measured, was_full = clock, 0, 0, 0, clock, 0, 0
if not fresh then began, full_at, tail, outflow, measured_at, measured, was_full = unpack(pace) end
local passed = paced(clock - began)
local tokens = wanted
if rate > 0 then
  if fresh then full_at = (burst - 1) / rate end
  if behind then full_at = passed + burst / rate end
  tokens = math.max(0, math.floor(burst - math.max(0, full_at - passed) * rate + ROUNDING))
  if ramp > 0 and others + held == 0 and math.min(wanted, room, tokens) > 0 then
    began, passed, tail, was_full, tokens, full_at = clock, 0, 0, 0, 1, (burst - 1) / rate
  end
end
local granted = math.max(0, math.min(wanted, room, tokens))
if rate > 0 then full_at = math.max(full_at, passed) + granted / rate end

local refused, why = wanted - granted, ''
if SHARED then
  if granted < used then verdicts, used, given, granted_claims = decide(granted) end
  granted = given
  local of = {a = 0, f = 0, s = 0, r = 0, t = 0, p = 0}
  for i, verdict in ipairs(verdicts) do
    if not asks[i].late then of[verdict] = (of[verdict] or 0) + 1 end
    if verdict == 'a' and not asks[i].late then asks[i].class.held = asks[i].class.held + 1 end
  end
  refused = of.f + of.s + of.r + of.t + of.p  -- whom a quota refuses, no moment helps
  why = of.p > 0 and 'paused' or of.f + of.s > 0 and 'full' or of.r > 0 and 'rate' or of.t > 0 and 'settling' or ''
elseif refused > 0 then
  why = paused and 'paused' or tokens < room and 'rate'
    or clock < settled and others + held + granted < limit and 'settling' or 'full'
end
-- What comes of it ----------------------------------------------------------------------------------------------------

local count = held + granted
local stays = not (goodbye and count == 0)
local lapsed = not record and seen_version > 0 and not fresh

if next(rises) then sums = add_to(sums, rises) end
if clock - measured_at >= beat then
  local released = tally(sums).released or 0
  local speed = math.max(0, released - measured) / (clock - measured_at)
  outflow = outflow > 0 and (outflow + speed) / 2 or speed
  measured_at, measured = clock, released
end

-- The next free moments of the schedule for those who are refused.
local moment, step, elapsed = '', '', ''
local speed = rate
if rate == 0 or (why == 'full' and outflow < rate) then speed = outflow end
if speed > 0 and refused > 0 then
  -- What was promised while slots were missing says nothing of a pool that has room again.
  if was_full == 1 and why ~= 'full' then tail = 0 end
  was_full = why == 'full' and 1 or 0
end
if speed > 0 and refused + owed > 0 then
  step, elapsed = 1 / (SCHEDULED * speed), clock - began
  moment = math.max(tail, paced(elapsed + retry_low)) + owed * step
  tail = math.min(moment + refused * step, math.max(tail, paced(elapsed + retry_high)))
end
total, version = others + count, version + 1
workers = workers - leaving
if record then workers = workers - 1 end
if stays then workers = workers + 1 end
drainers = drainers - drained + (stays and draining or 0)

-- An order ends when it is done: an enforced limit is one like any other once the pool is within it, and a drain of all
-- or of a worker is dropped when nobody drains any more and everybody has heard of it. A host's is for those to come, too.
if is_beat and clock >= settled and string.find(set, ';', 1, true) then
  local heard_by_all = clock - (settings.numbers_of_all.lease or lease)
  local function is_over(target, ordered_at)
    if drainers > 0 or (ordered_at > heard_by_all and ordered_at <= clock) then return false end
    return target == '*' or (string.find(target, ':', 1, true) and not redis.call('HGET', counts, target))
  end
  local entries, is_changed = {}, false
  for entry in string.gmatch(set, ';([^;]+)') do
    local target, ordered_at = string.match(entry, '^drain:([^=]+)=%d+:(%d+)/')
    local value, rest = string.match(entry, '^limit=(%d+)/[%d.]+(,.*)$')
    if target and is_over(target, read.number(ordered_at) or 0) then
      is_changed = true
    elseif value and total <= limit then
      entries[#entries + 1], is_changed = ';limit=' .. value .. rest, true
    else
      entries[#entries + 1] = ';' .. entry
    end
  end
  if is_changed then set = string.format('%.0f', controls_version(set) + 1) .. table.concat(entries) end
end

-- Each change of the level is told by one worker: the one whose report brought it about, again where it
-- has not seen the version of that reply, or another where that one is gone. While the ledger settles,
-- its counts say nothing.
local level, kept = tonumber(string.match(alert, '^([0-3])|')) or 0, {}
for part in string.gmatch(string.sub(alert, 3), '[^;]+') do
  local number, edge, teller = string.match(part, '^(%d+),([0-3],[0-3],%d+,%d+),(.*)$')
  local ours = teller == worker
  if number and not (ours and seen_version >= tonumber(number)) then
    ours = ours or teller == '' or once[teller] or not redis.call('HGET', counts, teller)
    kept[#kept + 1] = {ours and version or number, edge, ours and (stays and worker or '') or teller}
  end
end
if (fresh or behind) and known_level then level = known_level end
if clock >= settled then
  local before = level
  level = level_of(total, limit, before)
  if level ~= before then
    kept[#kept + 1] = {version, table.concat({before, level, total, limit}, ','), stays and worker or ''}
  end
end
local edges, told = '', ''
for i = math.max(1, #kept - EDGES_KEPT + 1), #kept do
  local number, edge, teller = unpack(kept[i])
  edges = edges .. number .. ',' .. edge .. ',' .. teller .. ';'
  if teller == worker then told = told .. edge .. ';' end
end

-- What is written -----------------------------------------------------------------------------------------------------

-- Claims, those that grow before those that vanish.
local claimed, held_by_class = 0, {}
if SHARED then
  attempts.write()
  local counted, gone, untold = {'#epoch', epoch}, {}, {}
  local told = {'#epoch', epoch, '#since', read.book_seal(worker, epoch, since)}
  for i, key in ipairs(keys) do
    local more = granted_claims[i] or 0
    sum[key], mine[i] = sum[key] + more, mine[i] + more
    if mine[i] > 0 then told[#told + 1], told[#told + 2] = key, read.marked(key, mine[i])
    else untold[#untold + 1] = key end
  end
  for key, count in pairs(sum) do
    if count > 0 then counted[#counted + 1], counted[#counted + 2] = key, read.marked(key, count)
    else gone[#gone + 1] = key end
  end
  redis.call('HSET', own, unpack(told))
  redis.call('HSET', claims, unpack(counted))
  if holders.is_needed then
    for i, ask in ipairs(asks) do
      for _, claim in ipairs(verdicts[i] == 'a' and ask or {}) do holders.grant(claim) end
    end
    holders.settle(sum)
  end
  if #gone > 0 then redis.call('HDEL', claims, unpack(gone)) end
  if #untold > 0 then redis.call('HDEL', own, unpack(untold)) end
  claimed = redis.call('HLEN', own) - 2
  if swept and heir == dead_worker then
    if #swept_up > 0 then redis.call('HDEL', swept, unpack(swept_up)) end
    if redis.call('HLEN', swept) <= 2 then
      heir = read.next_dead(claims, dead_worker)
      redis.call('UNLINK', swept)
      if holders.is_needed then redis.call('HDEL', holders.key, '@' .. dead_worker) end
      redis.call('HDEL', claims, '#dead', '#dead:' .. dead_worker)
      if heir then redis.call('HSET', claims, '#dead', heir) end
    end
  end
  if not stays then
    if claimed > 0 then with_claims[#with_claims + 1] = worker else redis.call('UNLINK', own) end
  end
  for _, name in ipairs(with_claims) do
    redis.call('HSET', claims, '#dead:' .. name, (heir or '') .. read.seal(name, heir or ''), '#dead', name)
    heir = name
  end
  redis.call('HSET', claims, '#seal', '')
  redis.call('HSET', claims, '#seal', read.pool_seal(epoch, heir, redis.call('HLEN', claims)))
  for _, class in ipairs(classes) do
    if class.name ~= '' and class.held > 0 then held_by_class[#held_by_class + 1] = class.name .. '=' .. class.held end
  end
end

do
  local whole = '%.0f'
  local values = {
    whole:format(total), whole:format(version), whole:format(clock), whole:format(now), whole:format(settled),
    whole:format(configured), sums, whole:format(drainers), level .. '|' .. edges,
    read.pace_text(began, full_at, tail, outflow, measured_at, measured, was_full), settings.store(clock),
  }
  values[#OWN] = read.seal('', table.concat(values, '\n'), 8)
  local fields = {}
  for i, name in ipairs(OWN) do fields[2 * i - 1], fields[2 * i] = name, values[i] end
  if stays then
    -- Where all have the same settings, no record need say which its worker has.
    local run_by = settings.alone and string.match(server, '^[^#]*') or server
    local parts = {count, seq, now, clock + lease, started, run_by, counters, load, draining}
    if SHARED then parts[10], parts[11] = table.concat(held_by_class, ','), claimed end
    local text = table.concat(parts, '|')
    fields[#fields + 1], fields[#fields + 2] = worker, text .. read.seal(worker, text)
  end
  redis.call('HSET', counts, unpack(fields))
end
remember(seconds, SECONDS_KEPT, second, total, limit, by_second)
remember(minutes, MINUTES_KEPT, minute, total, limit, by_minute)
if not stays then
  reaped[#reaped + 1] = worker
else
  redis.call('HSET', home, place_of(worker), born)
end

-- Whom this call has looked at goes to the end of the queue, and who is reaped leaves it.
local last_in_queue, leaves = {}, {}
for _, name in ipairs(reaped) do leaves[name] = true end
for _, name in ipairs(looked_at) do
  if not leaves[name] then last_in_queue[#last_in_queue + 1] = name end
  leaves[name] = nil
end
if stays and not record then last_in_queue[#last_in_queue + 1] = worker end
if #last_in_queue > 0 then redis.call('RPUSH', leases, unpack(last_in_queue)) end
if #looked_at > 0 then redis.call('LTRIM', leases, #looked_at, -1) end
for name in pairs(leaves) do redis.call('LREM', leases, 1, name) end
if #reaped > 0 then
  local places = {}
  for i, name in ipairs(reaped) do places[i] = place_of(name) end
  redis.call('HDEL', counts, unpack(reaped))
  redis.call('HDEL', home, unpack(places))
end
if set ~= stored then
  redis.call('DEL', controls)  -- and with it its expiry
  redis.call('HSET', controls, 'set', set, 'seal', string.sub(redis.sha1hex(set), 1, 8))
end
for i, key in ipairs(KEYS) do
  -- What is set outlives a quiet night. Keys that these settings do not need are left alone.
  local is_needed = not (SHARED and (i == 9 and ARGV[36] == '' or i == 10 and ARGV[38] == ''))
  if is_needed and (i ~= 5 or not string.find(set, ';', 1, true)) then redis.call('PEXPIRE', key, expiry) end
end

-- The answer ----------------------------------------------------------------------------------------------------------

local reply = {
  'ok', seq, granted, total, limit, workers - drainers, version, clock < settled and 1 or 0, lapsed and 1 or 0,
  why, tostring(moment), tostring(step), tostring(elapsed),
  tostring(now), controls_version(set) > controls_version(known) and set or '', level, told,
  table.concat(verdicts), retell and 1 or 0, heir or '', healed and 1 or 0, table.concat(attempts.waits, ','),
  settings.differ, table.concat(holders.due, ','),
}
if is_beat then
  local own, near, strangers = place_of(worker), {}, {}
  local host = string.sub(worker, 1, -1 - #own)
  local found = redis.call('HRANDFIELD', home, NEIGHBOURS_SHOWN, 'WITHVALUES')
  for i = 1, #found, 2 do near[#near + 1] = host .. found[i] end
  for i, theirs in ipairs(#near > 0 and redis.call('HMGET', counts, unpack(near)) or {}) do
    if not theirs then
      strangers[#strangers + 1] = found[2 * i - 1]
    elseif near[i] ~= worker then
      reply[#reply + 1] = near[i]
      reply[#reply + 1] = found[2 * i]
    end
  end
  if #strangers > 0 then redis.call('HDEL', home, unpack(strangers)) end
end
return reply
