-- rate: how many may enter at this moment, and when the refused should come again (core/rate.py has the rules).
--
-- '#pace' is began|full at|tail|outflow|measured at|measured|was full.

local rate = {
  FIELDS = {'began', 'full_at', 'tail', 'outflow', 'measured_at', 'measured', 'was_full'},
  first = '', step = '', elapsed = '',
}

function rate.parse(text)
  if #text > 200 then return nil end
  rate.stored_text = text
  local parts = {string.match(text, '^([^|]+)|([^|]+)|([^|]+)|([^|]+)|([^|]+)|([^|]+)|([^|]+)$')}
  for i = 1, #rate.FIELDS do
    parts[i] = codec.decimal(parts[i])
    if not parts[i] then return nil end
  end
  return parts
end

function rate.text()
  local is_new = not rate.stored
  for i = 1, is_new and 0 or #rate.FIELDS do is_new = is_new or rate.stored[i] ~= rate[rate.FIELDS[i]] end
  if not is_new then return rate.stored_text end
  local parts = {unpack(rate.FIELDS)}
  for i, name in ipairs(rate.FIELDS) do
    parts[i] = string.format('%.17g', math.max(0, math.min(rate[name], codec.LARGEST)))
  end
  return table.concat(parts, '|')
end

-- Pace time (as opposed to real time) that has passed, `elapsed` ms after the pace began.
function rate.time(elapsed)
  local slow_start = report.slow_start
  return elapsed < slow_start and elapsed * elapsed / (2 * slow_start) or elapsed - slow_start / 2
end

-- Begin with one token in the bucket.
function rate.begin()
  rate.began, rate.passed, rate.tail, rate.was_full = clock.time, 0, 0, 0
  rate.full_at = rate.speed > 0 and (rate.burst - 1) / rate.speed or 0
end

-- Go on from what is stored. The pace starts anew, slowly, after a loss of data and, with a slow start, as an empty pool is
-- entered.
function rate.load(stored)
  rate.speed, rate.burst = report.rate, report.burst
  if settings.in_force.rate then
    rate.speed, rate.burst = settings.in_force.rate / 1000, settings.in_force.burst or report.burst
  end
  rate.outflow, rate.measured_at, rate.measured = 0, clock.time, 0
  rate.stored = stored
  if not stored then rate.begin() end
  for i, name in ipairs(stored and rate.FIELDS or {}) do rate[name] = stored[i] end
  rate.passed = rate.time(clock.time - rate.began)
  if rate.speed > 0 and clock.has_lost then rate.full_at = rate.passed + rate.burst / rate.speed end
end

-- How many may enter now, of so many for whom there is room, the start being slow in an empty pool.
function rate.tokens(wanted, room, is_empty)
  if rate.speed == 0 then return wanted end
  local missing = math.max(0, rate.full_at - rate.passed) * rate.speed
  local tokens = math.max(0, math.floor(rate.burst - missing + const.ROUNDING))
  if report.slow_start == 0 or not is_empty or math.min(wanted, room, tokens) <= 0 then return tokens end
  rate.begin()
  return 1
end

function rate.spend(granted)
  if rate.speed > 0 then rate.full_at = math.max(rate.full_at, rate.passed) + granted / rate.speed end
end

-- Learn from the pool's counters how fast slots become free, once in a heartbeat.
function rate.measure(counters)
  local elapsed = clock.time - rate.measured_at
  if elapsed < report.heartbeat then return end
  local released = codec.tally(counters)[const.RELEASED] or 0
  local speed = math.max(0, released - rate.measured) / elapsed
  rate.outflow = rate.outflow > 0 and (rate.outflow + speed) / 2 or speed
  rate.measured_at, rate.measured = clock.time, released
end

-- The next free retry times of the schedule for those who are refused, after those that were given away already.
function rate.schedule(refused, is_full)
  local speed = rate.speed
  if speed == 0 or (is_full and rate.outflow < speed) then speed = rate.outflow end
  if speed <= 0 or refused + report.owed == 0 then return end
  if refused > 0 then
    -- What was promised while slots were missing says nothing of a pool that has room again.
    if rate.was_full == 1 and not is_full then rate.tail = 0 end
    rate.was_full = is_full and 1 or 0
  end
  local step, elapsed = 1 / (const.SCHEDULED * speed), clock.time - rate.began
  local first = math.max(rate.tail, rate.time(elapsed + report.retry_low)) + report.owed * step
  rate.tail = math.min(first + refused * step, math.max(rate.tail, rate.time(elapsed + report.retry_high)))
  rate.first, rate.step, rate.elapsed = first, step, elapsed
end
