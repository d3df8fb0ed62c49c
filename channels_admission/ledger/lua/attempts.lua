-- attempts: how often each key may try (attempts.py has the rules).
--
-- A bucket for each key, in sets of bounded size that the key's first bytes choose. A bucket is the key, when it is full,
-- and its last turn. A set that is none of ours is taken to be empty, and so is a bucket that lacks more than any may.

local attempts = {
  FORMAT = '>c' .. const.KEY_BYTES .. 'dd', BYTES = const.KEY_BYTES + 16,
  rates = {}, verdicts = {}, waits = {}, written = {},
}

function attempts.set_of(name)
  local high, low = string.byte(name, 1, 2)
  return (high * 256 + low) % const.SETS
end

function attempts.parse(text, buckets)
  if not text or #text % attempts.BYTES > 0 or #text > const.WAYS * attempts.BYTES then return end
  local latest = clock.time + const.LONGEST_DEBT
  for at = 1, #text, attempts.BYTES do
    local name, full, turn = struct.unpack(attempts.FORMAT, text, at)
    local is_alive = full > clock.time or turn > clock.time
    if is_alive and full <= latest and turn <= latest then buckets[name] = {full, turn} end
  end
end

-- The buckets of the sets that these attempts need, by set and key; only those that are not full.
function attempts.read(tries)
  local places, sets = {}, {}
  for _, each in ipairs(tries) do
    local place = attempts.set_of(each.key)
    if not sets[place] then sets[place], places[#places + 1] = {}, place end
  end
  for i, text in ipairs(redis.call('HMGET', key.attempts, unpack(places))) do attempts.parse(text, sets[places[i]]) end
  return sets
end

-- Make room in a full set: the bucket that lacks the fewest attempts is dropped.
function attempts.make_room(buckets, name)
  local kept, least, soonest = 0, nil, nil
  for other, theirs in pairs(buckets) do
    if other ~= name then
      local ends = math.max(theirs[1], theirs[2])
      kept = kept + 1
      if not least or ends < soonest or (ends == soonest and other < least) then least, soonest = other, ends end
    end
  end
  if kept >= const.WAYS then buckets[least] = nil end
end

-- Count attempts under one key; 0 where the last one passes, else ms until its turn. A refused attempt is given the next
-- turn of its key; one whose turns reach as far as the longest hint is locked.
function attempts.take(buckets, name, terms, number)
  local time, rounding = clock.time, 1000 * const.ROUNDING
  local full, turn = unpack(buckets[name] or {time, time})
  local latest = time + report.retry_high
  if not (full > time and full <= time + terms.burst / terms.rate + rounding) then full = time end
  if not (turn > time and turn <= latest) then turn = time end
  local is_locked = turn > time and turn + 1 / terms.rate > latest + rounding
  local passed = math.max(0, math.floor(terms.burst - (full - time) * terms.rate + const.ROUNDING))
  passed = is_locked and 0 or math.min(number, passed)
  full = full + passed / terms.rate
  local refused = number - passed
  if refused > 0 then
    local first = full + (1 - terms.burst) / terms.rate
    local after = turn > time and turn + refused / terms.rate or time
    turn = math.min(math.max(after, first + (refused - 1) / terms.rate), latest)
  end
  attempts.make_room(buckets, name)
  buckets[name] = {full, turn}
  return refused > 0 and math.max(rounding, turn - time) or 0
end

-- The attempts of the report: first those that the worker has decided, then those of the asks.
function attempts.told()
  local tries = shared.tries
  for number, ask in ipairs(shared.asks) do
    for quota, name in ipairs(ask.tries or {}) do
      if name ~= '' then tries[#tries + 1] = {ask = number, quota = quota, number = 1, key = name} end
    end
  end
  return tries
end

-- Count them; an ask that one quota refuses is not counted with those after it.
function attempts.judge()
  local tries = attempts.told()
  if #tries == 0 then return end
  local sets = attempts.read(tries)
  for _, each in ipairs(tries) do
    local terms, place = attempts.rates[each.quota], attempts.set_of(each.key)
    if terms and not (each.ask and attempts.verdicts[each.ask]) then
      local wait = attempts.take(sets[place], each.key, terms, each.number)
      attempts.written[place] = sets[place]
      if wait > 0 and each.ask then
        attempts.verdicts[each.ask] = string.char(const.FIRST_RATE + each.quota - 1)
        attempts.waits[#attempts.waits + 1] = string.format('%.17g', wait)
      end
    end
  end
end

-- By the settings of this worker and those in force.
function attempts.load()
  for place, quota in ipairs(shared.quotas) do
    if quota.rate then
      local slowest, most = settings.in_force['attempts:' .. quota.name], settings.in_force['at_once:' .. quota.name]
      local is_agreed = slowest and most
      attempts.is_needed = true
      attempts.rates[place] = {
        rate = (is_agreed and slowest or quota.rate) / 1000, burst = is_agreed and most or quota.burst,
      }
    end
  end
  if not attempts.is_needed then return end
  if clock.is_fresh then redis.call('UNLINK', key.attempts) end
  attempts.judge()
end

function attempts.write()
  local fields = {}
  for place, buckets in pairs(attempts.written) do
    local parts = {}
    for name, both in pairs(buckets) do parts[#parts + 1] = struct.pack(attempts.FORMAT, name, both[1], both[2]) end
    fields[#fields + 1], fields[#fields + 2] = place, table.concat(parts)
  end
  if #fields > 0 then redis.call('HSET', key.attempts, unpack(fields)) end
end
