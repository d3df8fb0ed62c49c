-- rate: how many may enter at this time, and when the refused should come again (core/herd/rate.py has the rules).
--
-- '#pace' is began|full at|next free|outflow|measured at|measured|shut at|dry since|refused at; shut at is since when the pool
-- has been full or paused, or 0, and dry since is 0 where somebody was admitted after the last refusal.

local rate = {
  FIELDS = {'began', 'full_at', 'next_free', 'outflow', 'measured_at', 'measured', 'shut_at', 'dry_since', 'refused_at'},
  SHUT = {full = true, paused = true},
  first = '', step = '', elapsed = '', has_line = false, aside = 0,
}

function rate.parse(text)
  if #text > 300 then return nil end
  rate.stored_text = text
  local parts = {string.match(text, '^([^|]+)|([^|]+)|([^|]+)|([^|]+)|([^|]+)|([^|]+)|([^|]+)|([^|]+)|([^|]+)$')}
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

-- The inverse of rate.time: after how many ms so much pace time has passed.
function rate.elapsed_at(time)
  local slow_start = report.slow_start
  return time < slow_start / 2 and math.sqrt(2 * slow_start * time) or time + slow_start / 2
end

-- Pace time (as opposed to real time) that has passed, `elapsed` ms after the pace began.
function rate.time(elapsed)
  local slow_start = report.slow_start
  return elapsed < slow_start and elapsed * elapsed / (2 * slow_start) or elapsed - slow_start / 2
end

-- Begin with one token in the bucket.
function rate.begin()
  rate.began, rate.passed, rate.next_free, rate.shut_at = clock.time, 0, 0, 0
  rate.full_at = rate.speed > 0 and (rate.burst - 1) / rate.speed or 0
end

-- Go on from what is stored. The pace starts anew, slowly, after a loss of data and, with a slow start, as an empty pool is
-- entered.
function rate.load(stored)
  rate.speed, rate.burst = report.rate, report.burst
  if settings.in_force.rate then
    rate.speed, rate.burst = settings.in_force.rate / 1000, settings.in_force.burst or report.burst
  end
  rate.outflow, rate.measured_at, rate.measured, rate.dry_since, rate.refused_at = 0, clock.time, 0, 0, 0
  rate.stored = stored
  if not stored then rate.begin() end
  for i, name in ipairs(stored and rate.FIELDS or {}) do rate[name] = stored[i] end
  rate.passed = rate.time(clock.time - rate.began)
  if rate.speed > 0 and clock.has_lost then rate.full_at = rate.passed + rate.burst / rate.speed end
end

-- How many may enter now; the start is slow in an empty pool.
function rate.tokens(is_empty)
  if rate.speed == 0 then return math.huge end
  local missing = math.max(0, rate.full_at - rate.passed) * rate.speed + rate.aside
  local tokens = math.max(0, math.floor(rate.burst - missing + const.ROUNDING))
  return report.slow_start > 0 and is_empty and math.min(1, tokens) or tokens
end

-- How many of the free slots need not be kept: one where the bucket is full, since the next token would be lost. A bucket
-- of one token must have lost one already.
function rate.spare(free)
  if rate.speed == 0 or free < rate.burst then return 0 end
  local lost = (rate.passed - rate.full_at) * rate.speed
  return lost >= math.max(0, 2 - rate.burst) - const.ROUNDING and 1 or 0
end

function rate.spend(granted, is_empty)
  if granted > 0 then rate.dry_since = 0 end
  if rate.speed == 0 then return end
  if granted > 0 and is_empty and report.slow_start > 0 then rate.begin() end
  rate.take(granted)
end

function rate.take(number)
  if rate.speed > 0 then rate.full_at = math.max(rate.full_at, rate.passed) + number / rate.speed end
end

-- While a new pool settles, set aside a part of what flows into the bucket, until it is half of the burst. Reserves that
-- no worker has told of are paid for: by these tokens, or by one that comes from an earlier pool after all.
function rate.set_aside(is_earlier)
  if rate.speed == 0 then return end
  rate.aside = math.min(rate.most_held(), const.ASIDE * rate.passed * rate.speed)
  if is_earlier then rate.take(rate.most_held()) end
end

-- Leave room in the bucket for the tokens that workers hold in reserve, so that all together are at most the burst. While
-- the pool settles, some of them are not known. Reserves from before there was a rate may be larger than the burst.
function rate.hold(reserve)
  if rate.speed == 0 then return end
  if clock.is_settling() then reserve = math.max(reserve, rate.most_held() - rate.aside) end
  reserve = math.min(reserve, rate.burst)
  if reserve > 0 then rate.full_at = math.max(rate.full_at, rate.passed + reserve / rate.speed) end
end

-- Tokens that no handshake has used are the bucket's again.
function rate.take_back(unused)
  if rate.speed > 0 then rate.full_at = rate.full_at - unused / rate.speed end
end

-- The most tokens that all reserves together may have.
function rate.most_held()
  return math.floor(rate.burst / 2)
end

-- The most tokens in the reserve of one of so many workers, beside those in the reserves of others. Its `own` are at most
-- half of its part of the tokens that are left.
function rate.most_in_reserve(own, others, workers)
  if rate.speed == 0 then return math.huge end
  return math.min(rate.most_held() - others, math.floor((rate.tokens(false) + own) / (2 * workers)))
end

-- Learn from the pool's counters how fast slots become free, once in a heartbeat.
function rate.measure(counters)
  local elapsed = clock.time - rate.measured_at
  if elapsed < report.heartbeat then return end
  local released = codec.count(counters, const.RELEASED)
  local speed = math.max(0, released - rate.measured) / elapsed
  rate.outflow = rate.outflow > 0 and (rate.outflow + speed) / 2 or speed
  rate.measured_at, rate.measured = clock.time, released
end

-- The lowest of the speeds that are known of the pool `now`, apart from the outflow.
function rate.most(why, now)
  local probing, speed = const.PROBING * math.max(1, now.workers - now.draining) / 1000, math.huge
  if rate.speed > 0 then speed = rate.speed end
  if now.speed > 0 then speed = math.min(speed, now.speed / 1e6) end
  return (why == 'full' or speed == math.huge) and math.min(speed, probing) or speed
end

-- The outflow. What has become free in the heartbeat that is not over yet counts as well.
function rate.leaving(now)
  local lately = codec.count(now.counters, const.RELEASED) - rate.measured
  return math.max(rate.outflow, lately / report.heartbeat)
end

-- Note since when it has been shut. What was promised meanwhile says nothing of a pool that is open again.
function rate.open_or_shut(refused, why, now)
  local shut = rate.shut_at > 0 and not now.is_open()
  if refused > 0 then shut = rate.SHUT[why] end
  if not shut and rate.shut_at > 0 then rate.next_free = 0 end
  rate.shut_at = shut and (rate.shut_at > 0 and rate.shut_at or clock.time) or 0
end

-- From now on this call looks at the line, which is stored as this text.
function rate.use_line(text)
  rate.has_line = true
  line.load(text)
end

-- The lowest of the speeds that are known.
function rate.speed_of(why, now)
  local outflow = why == 'full' and rate.leaving(now) or 0
  return outflow > 0 and math.min(rate.most(why, now), outflow) or rate.most(why, now)
end

-- From one retry time to the next, of `number` from `first` on, where `step` is that of the speed.
function rate.apart(why, now, first, number, step)
  if why ~= 'full' or rate.shut_at == 0 or clock.time - rate.shut_at >= report.retry_high then return step end
  -- What has been seen for so long says nothing of a later time, and those who came at once may leave at once.
  local left = rate.time(2 * clock.time - rate.shut_at - rate.began) - first
  return math.max(1 / (const.SCHEDULED * rate.most(why, now)), math.min(const.EAGER * step, left / number))
end

-- For how long one waits for the pool to settle that is refused for it.
function rate.settles_in(why)
  return why == 'settling' and math.min(report.retry_high, clock.settled - clock.time) or 0
end

-- How far away the earliest retry time is for one that is refused now. A drought, in which nobody is admitted, is over when
-- nobody was refused for as long as a client may be told to wait.
function rate.soonest(why)
  local low, high = report.retry_low, report.retry_high
  if rate.dry_since == 0 or clock.time - rate.refused_at > high then rate.dry_since = clock.time end
  rate.refused_at = clock.time
  local soonest = math.min(high, math.max(low, const.GROWTH * (clock.time - rate.dry_since)))
  return math.max(soonest, rate.settles_in(why))
end

-- The next free retry times of the schedule for those who are refused, after those that were given away already, by the
-- counts of the pool `now`: the first, from one to the next, and the time by which they go.
function rate.retry_times(refused, unreserved, why, now)
  rate.open_or_shut(refused, why, now)
  local elapsed = clock.time - rate.began
  local soonest = rate.time(elapsed + rate.soonest(why))
  local step = 1 / (const.SCHEDULED * rate.speed_of(why, now))
  if refused > 0 then rate.next_free = math.min(rate.next_free, soonest + const.SLACK * line.ahead() * step) end
  local first = math.max(rate.next_free, soonest)
  step = rate.apart(why, now, first, refused + unreserved, step) * line.overbooked()
  line.promise_series(refused + unreserved, rate.elapsed_at(first) - elapsed, function(time)
    return math.ceil((rate.time(elapsed + time) - first) / step - const.ROUNDING)
  end)
  first = first + unreserved * step
  rate.next_free = math.min(first + refused * step, math.max(rate.next_free, rate.time(elapsed + const.LINE.longest)))
  return first, step, elapsed
end

-- Those of a report. Without anybody refused, `why` is what holds at present.
function rate.schedule(refused, why, now)
  if refused + report.unreserved == 0 then return end
  if not rate.has_line then rate.use_line('') end
  rate.first, rate.step, rate.elapsed = rate.retry_times(refused, report.unreserved, why, now)
end

-- How long so many due tickets wait that found nothing free, in their order: for a short time by the speed, once the
-- pool has settled, or by the schedule where time does not help soon.
function rate.turns(number, why, now)
  local waits = {}
  if number == 0 then return waits end
  local soonest, most = rate.soonest(why), rate.settles_in(why) + math.max(report.retry_low, const.LINE.again)
  if why == 'paused' or soonest > most then
    local first, step, elapsed = rate.retry_times(number, 0, why, now)
    for i = 1, number do waits[i] = rate.elapsed_at(first + (i - 1) * step) - elapsed end
    return waits
  end
  local step = 1 / rate.speed_of(why, now)
  for i = 1, number do
    waits[i] = math.min(most, soonest + (i - 1) * step)
    line.promise_again(clock.now + waits[i])
  end
  return waits
end
