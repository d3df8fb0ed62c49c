-- reconcile: apply one worker's report to its pool and answer it, in one atomic step.
--
-- KEYS  1 counts   hash: one record per worker, and the pool's own fields, which begin with '#'
--       2 leases   list: every worker once; the first are the next to be looked at
--       3 home     hash: pid:nonce -> born, of the workers that share the reporter's host and process namespace
--       4 seconds  hash: place in a ring of 300 -> second|handshakes decided in that second of Redis's time
-- ARGV  1 worker   2 seq   3 held (slots)   4 wanted (handshakes)   5 limit (slots)
--       6 version seen   7 allowance (slots)   8 lease (ms)   9 beat (ms)   10 expiry of unused keys (ms)
--      11 age (ms)   12 born   13 server   14 counters   15 counters acknowledged
--      16 beat? (0/1)   17 goodbye? (0/1)
--      18 rate (admissions per second, 0: none)   19 burst (admissions)   20 ramp (ms)
--      21 retry-after, least (ms)   22 retry-after, most (ms)   23 moments given away and not yet reserved
--      24 load   25... workers of this home whose process is gone
-- Returns {'ok', seq, granted, total, limit, workers, version, settling, lapsed, why not all ('' or a reason),
--          first moment, from one to the next, real time since the pace began ('' or ms, as text),
--          neighbour, born, ...}
--      or {'out of order', seq, last seq applied}, having changed nothing.
--
-- A record is held|seq|seen|lease's end|started|server|counters|load; counters are name=count,name=count.
-- '#pace' is began|full at|tail|outflow|measured at|measured|was full; pace.py tells the rules, and what each is.
-- Times in records are Redis's, in milliseconds, but for the lease's end, which is the pool's clock's. Writes that need memory come before those that
-- give it back: Redis refuses a script for want of memory only before its first write.

local OWN_FIELDS = 8        -- '#total' '#version' '#clock' '#real' '#settled' '#limit' '#counters' '#pace'
local LOOKED_AT = 4         -- workers whose lease a call looks at; more, where it finds one that has run out
local REAPED_PER_CALL = 100
local NEIGHBOURS_SHOWN = 256
local FIRST_GONE = 25       -- in ARGV
local SECONDS_KEPT = 300
local NO_HANDSHAKES = {
  released = true, shed = true, ['ledger.calls'] = true, ['ledger.errors'] = true, ['ledger.ms'] = true,
}
local SCHEDULED = 0.97      -- moments given away, as a share of the admissions that are possible
local ROUNDING = 1e-6       -- of a token

local counts, leases, home, seconds = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local worker, seq, held, wanted = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local limit, seen_version, allowance = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local lease, beat, expiry = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local age, born, server, counters, acknowledged = tonumber(ARGV[11]), ARGV[12], ARGV[13], ARGV[14], ARGV[15]
local is_beat, goodbye = ARGV[16] == '1', ARGV[17] == '1'
local rate, burst, ramp = tonumber(ARGV[18]) / 1000, tonumber(ARGV[19]), tonumber(ARGV[20])
local retry_low, retry_high, owed, load = tonumber(ARGV[21]), tonumber(ARGV[22]), tonumber(ARGV[23]), ARGV[24]
local settling_time = math.floor(1.5 * beat)

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function parse(record)
  local count, last, seen, _, started, _, tally = string.match(record, '^(%d+)|(%d+)|(%d+)|(%d+)|(%d+)|([^|]*)|([^|]*)|')
  return tonumber(count) or 0, tonumber(last) or 0, tonumber(started), tally or '', tonumber(seen)
end

local function end_of_lease(record)
  return tonumber(string.match(record, '^%d+|%d+|%d+|(%d+)|')) or 0
end

-- A worker's name without its host, which all of a home share.
local function place_of(name)
  return string.match(name, ':(.*)$') or name
end

local function parse_pace(text)
  local parts = {}
  for part in string.gmatch(text, '[^|]+') do parts[#parts + 1] = tonumber(part) or 0 end
  return unpack(parts, 1, 7)
end

local function tally(text)
  local of = {}
  for name, count in string.gmatch(text, '([^=,]+)=(%d+)') do of[name] = tonumber(count) end
  return of
end

-- Add to the pool's sums what has happened since the counters `before`.
local function add_events(sums, before)
  local sum, old = tally(sums), tally(before)
  for name, count in pairs(tally(counters)) do
    sum[name] = (sum[name] or 0) + math.max(0, count - (old[name] or 0))
  end
  local parts = {}
  for name, count in pairs(sum) do parts[#parts + 1] = name .. '=' .. string.format('%.0f', count) end
  return table.concat(parts, ',')
end

-- Handshakes decided since the counters `before`.
local function decided_since(before)
  local old, decided = tally(before), 0
  for name, count in pairs(tally(counters)) do
    if not NO_HANDSHAKES[name] then decided = decided + math.max(0, count - (old[name] or 0)) end
  end
  return decided
end

-- Pace time that has passed, `elapsed` ms after the pace began.
local function paced(elapsed)
  if elapsed < ramp then return elapsed * elapsed / (2 * ramp) end
  return elapsed - ramp / 2
end

local state = redis.call('HMGET', counts, '#total', '#version', '#clock', '#real', '#settled', '#counters', '#pace', worker)
local total, version, clock, real = tonumber(state[1]), tonumber(state[2]), tonumber(state[3]), tonumber(state[4])
local settled, sums, pace, record = tonumber(state[5]), state[6], state[7], state[8]
local workers = redis.call('LLEN', leases)

-- Missing or torn (a key evicted, a field deleted): start over, the living report themselves again.
local fresh = not (total and version and clock and real and settled and sums and pace)
  or redis.call('HLEN', counts) ~= workers + OWN_FIELDS
if fresh then
  redis.call('DEL', counts, leases, seconds)
  total, version, clock, real, workers = 0, 0, now, now, 0
  settled, sums, record = now + settling_time, '', false
end

-- The pool's clock never runs backwards, and one call moves it by two beats at most.
clock = clock + math.max(0, math.min(now - real, 2 * beat))

-- A worker knows more than the ledger: acknowledged writes were lost.
local behind = seen_version > version
if behind then
  settled = math.max(settled, clock + settling_time)
  version = seen_version
end

local counted, last, started, before, told_at = 0, 0, now - age, '', nil
if record then
  counted, last, started, before, told_at = parse(record)
elseif not fresh then
  before = acknowledged
end
if seq <= last then return {'out of order', seq, last} end

-- Handshakes are spread evenly over the seconds since the worker's last report, one second in a herd.
-- When those of a worker that the ledger has forgotten were decided, nobody knows.
local ring = fresh and {0, '0|0'} or {}  -- all keys of a pool exist together, or a cluster could not move it
if not record and seen_version == 0 then told_at = now - age end
local decided = told_at and decided_since(before) or 0
if decided > 0 then
  local second = math.floor(now / 1000)
  local spread = math.max(1, math.min(second - math.floor(told_at / 1000), SECONDS_KEPT, decided))
  local places = {}
  for i = 1, spread do places[i] = (second - i + 1) % SECONDS_KEPT end
  for i, value in ipairs(redis.call('HMGET', seconds, unpack(places))) do
    local at, handshakes = string.match(value or '', '^(%d+)|(%d+)$')
    local already = tonumber(at) == second - i + 1 and tonumber(handshakes) or 0
    local share = math.floor(decided / spread) + (i <= decided % spread and 1 or 0)
    ring[#ring + 1] = places[i]
    ring[#ring + 1] = string.format('%d|%.0f', second - i + 1, already + share)
  end
end

local looked_at, dead = {}, {}

local function look_at(most)
  local names = redis.call('LRANGE', leases, #looked_at, #looked_at + most - 1)
  if #names == 0 then return end
  for i, theirs in ipairs(redis.call('HMGET', counts, unpack(names))) do
    if #dead == REAPED_PER_CALL then return end
    looked_at[#looked_at + 1] = names[i]
    if not theirs or end_of_lease(theirs) <= clock then dead[#dead + 1] = names[i] end
  end
end

look_at(LOOKED_AT)
if #dead > 0 then look_at(REAPED_PER_CALL) end
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
local freed, leaving = 0, 0
if #reaped > 0 then
  for _, theirs in ipairs(redis.call('HMGET', counts, unpack(reaped))) do
    if theirs then
      freed = freed + parse(theirs)
      leaving = leaving + 1
    end
  end
end

local others = total - counted - freed

local room = limit - others - held
if clock < settled then room = math.min(room, allowance - held) end

-- The pace starts anew, slowly, after a loss of data and, with a ramp, as an empty pool is entered.
local began, full_at, tail, outflow, measured_at, measured, was_full = clock, 0, 0, 0, clock, 0, 0
if not fresh then began, full_at, tail, outflow, measured_at, measured, was_full = parse_pace(pace) end
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
if refused > 0 then
  why = tokens < room and 'rate' or clock < settled and others + held + granted < limit and 'settling' or 'full'
end
local count = held + granted
local stays = not (goodbye and count == 0)
local lapsed = not record and seen_version > 0 and not fresh

if counters ~= before then sums = add_events(sums, before) end
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

local fields = {
  '#total', total, '#version', version, '#clock', clock, '#real', now,
  '#settled', settled, '#limit', limit, '#counters', sums,
  '#pace', string.format('%d|%.17g|%.17g|%.17g|%d|%d|%d', began, full_at, tail, outflow, measured_at, measured, was_full),
}
if stays then
  fields[#fields + 1] = worker
  fields[#fields + 1] = table.concat({count, seq, now, clock + lease, started, server, counters, load}, '|')
end
redis.call('HSET', counts, unpack(fields))
if #ring > 0 then redis.call('HSET', seconds, unpack(ring)) end
if stays then redis.call('HSET', home, place_of(worker), born) else reaped[#reaped + 1] = worker end

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
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, expiry) end

local reply = {
  'ok', seq, granted, total, limit, workers, version, clock < settled and 1 or 0, lapsed and 1 or 0,
  why, tostring(moment), tostring(step), tostring(elapsed),
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
