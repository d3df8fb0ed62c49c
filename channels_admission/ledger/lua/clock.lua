-- clock: the time by Redis, the pool's own clock, and whether the pool settles after a loss of data.
--
-- The pool's clock tells when leases end. It never runs backwards, and one call moves it by two heartbeats at most: no
-- jump of Redis's clock and no outage ages a lease by more.

local clock = {}

-- The time by Redis.
function clock.wall()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The pool's clock after this call; `heartbeat` is the shortest of those in the pool.
function clock.advanced(before, elapsed, heartbeat)
  return before + math.max(0, math.min(elapsed, 2 * heartbeat))
end

-- Whether a worker knows more than the ledger: acknowledged writes were lost.
function clock.is_behind(version)
  return report.version > version
end

-- Whether counts may be low from now on. They are until the slowest heartbeat has been heard, and half of one more.
function clock.must_settle()
  return clock.is_fresh or clock.has_lost or (clock.is_settling() and settings.is_slower)
end

function clock.is_settling()
  return clock.time < clock.settled
end

function clock.settle()
  clock.settled = math.max(clock.settled, clock.time + math.floor(const.SETTLING * settings.slowest))
end

function clock.read()
  clock.now = clock.wall()
end

-- Let time pass in the pool as it was stored; `is_fresh` where it has no past. `last` is the time by Redis of the call
-- before, and `skipped` what of the time since then does not pass in the pool.
function clock.advance(stored, is_fresh)
  clock.is_fresh, clock.settled = is_fresh, stored.settled
  clock.time = clock.advanced(stored.clock, clock.now - stored.real, settings.fastest)
  clock.has_lost = clock.is_behind(stored.version)
  clock.last, clock.skipped = stored.real, clock.now - stored.real - (clock.time - stored.clock)
  settings.agree(clock.time, is_fresh or clock.has_lost)
  if clock.must_settle() then clock.settle() end
end
