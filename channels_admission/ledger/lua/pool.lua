-- pool: the pool's own fields, const.POOL, which the last of them seals, and this worker's record before this call.

local pool = {FIELDS = const.POOL, is_healed = false}

-- Whether `values`, of which `before` are no fields of the pool, are sealed.
function pool.is_sealed(values, before)
  local last = before + #pool.FIELDS
  return codec.seal('', table.concat(values, '\n', before + 1, last - 1), 8) == values[last]
end

-- Whether there are as many records as workers in the queue.
function pool.is_complete(length)
  return length == leases.workers + #pool.FIELDS
end

-- The fields, which stand in `values` after `before` others, if all of them are there and as they were written.
function pool.parse(values, before)
  for place = before + 1, before + #pool.FIELDS do
    if not values[place] then return nil end
  end
  local number = codec.number
  local stored = {
    total = number(values[before + const.FIELD.total]), version = number(values[before + const.FIELD.version]),
    clock = number(values[before + const.FIELD.clock]), real = number(values[before + const.FIELD.real]),
    settled = number(values[before + const.FIELD.settled]), draining = number(values[before + const.FIELD.draining]),
    speed = number(values[before + const.FIELD.speed]), reserve = number(values[before + const.FIELD.reserve]),
    alert = values[before + const.FIELD.alert],
    pace = rate.parse(values[before + const.FIELD.pace]), line = values[before + const.FIELD.line],
  }
  local is_whole = stored.total and stored.version and stored.clock and stored.real and stored.settled
    and stored.draining and stored.speed and stored.reserve and stored.pace and number(values[before + const.FIELD.limit])
  stored.since, stored.counters = pool.counted(values[before + const.FIELD.counters])
  if not is_whole or not stored.since or #stored.alert > 4096
    or #stored.line > const.LINE.bytes then return nil end
  return pool.is_sealed(values, before) and stored or nil
end

-- Since when the counters count, and the counters as text.
function pool.counted(text)
  if #text > const.COUNTERS_BYTES then return nil end
  local since, counters = string.match(codec.unsealed(text), '^(%d+)|(.*)$')
  since = since and codec.digits(since)
  return since, since and counters
end

function pool.counters_text(since, counters)
  local text = codec.whole(since) .. '|' .. counters
  return text .. codec.seal('#counters', text)
end

-- The counters of a pool that starts over because something else was damaged, if they are as they were written.
function pool.saved(values, before)
  local text, version = values[before + const.FIELD.counters], codec.number(values[before + const.FIELD.version])
  local since, counters = nil, nil
  if text and version then since, counters = pool.counted(text) end
  if not since or pool.counters_text(since, counters) ~= text then return nil end
  return {since = since, counters = counters, version = version}
end

-- Read the pool's own fields, this worker's record, and those of the next to be looked at.
function pool.read()
  leases.load()
  local fields, others = {report.worker}, #leases.looked_at
  for i, name in ipairs(leases.looked_at) do fields[i + 1] = name end
  for i, name in ipairs(pool.FIELDS) do fields[others + 1 + i] = name end
  local found = redis.call('HMGET', key.counts, unpack(fields))
  local stored = pool.parse(found, others + 1)
  local length, record = redis.call('HLEN', key.counts), records.parse(report.worker, found[1])
  settings.load(found[#fields - 1])
  local is_whole = leases.look(found, stored and stored.clock)
  is_whole = is_whole and stored and pool.is_complete(length) and (record or not found[1])
  if is_whole and (not record or leases.has_own()) then return stored, record end
  pool.is_healed, pool.rest = length + leases.workers > 0, pool.saved(found, others + 1)
  return nil, nil
end

-- Missing, torn (a key evicted, a field deleted) or damaged: start over, the living report themselves again.
function pool.start_over()
  redis.call('DEL', key.counts, key.leases)
  leases.workers, leases.looked_at = 0, {}
  return {
    total = 0, version = orders.last(overrides.set), clock = clock.now, real = clock.now, settled = clock.now,
    counters = '', since = clock.now, draining = 0, speed = 0, reserve = 0, alert = '0|', line = '',
  }
end

-- What is known of this worker. Of one that is not counted it is what itself has heard.
function pool.before(record)
  if record then return record end
  return {held = 0, seq = 0, draining = 0, speed = 0, reserve = 0, counters = report.acknowledged}
end

-- Go on with the counters, also with those of a pool that starts over because something else was damaged. Where data
-- were lost they begin anew at 0: they would come back with other values, and a counter that falls looks like a restart.
function pool.count_on(stored)
  local known = pool.rest or stored
  local is_lost = clock.is_behind(known.version)
  pool.counters = is_lost and codec.counter(const.AT .. const.DATA_LOST, math.floor(clock.now / 1000)) or known.counters
  pool.since = is_lost and math.max(clock.now, known.since + 1) or known.since
  if is_lost or clock.is_fresh then rate.measured = codec.count(pool.counters, const.RELEASED) end
end

function pool.load()
  local stored, record = pool.read()
  stored = stored or pool.start_over()
  clock.advance(stored, not stored.pace)
  rate.load(stored.pace)
  pool.count_on(stored)
  pool.total, pool.draining, pool.alert = stored.total, stored.draining, stored.alert
  pool.speed, pool.reserve = stored.speed, stored.reserve
  pool.version = clock.has_lost and report.version or stored.version
  pool.configured = settings.in_force.limit
  pool.limit = overrides.limit or pool.configured
  pool.is_known, pool.was = record ~= nil, pool.before(record)
  if stored.line ~= '' or report.shown then rate.use_line(stored.line) end
  pool.is_lapsed = not record and report.version > 0 and not clock.is_fresh
end

-- Slots that all the others hold, now that the dead are forgotten, those in other layouts included.
function pool.others()
  return pool.total - pool.was.held - leases.freed + layouts.held
end

-- Those of them in reserves.
function pool.others_reserve()
  return pool.reserve - pool.was.reserve - leases.reserve
end

-- Whether no connection is held.
function pool.is_empty(others)
  return others - pool.others_reserve() + report.held - report.reserve == 0
end

-- Whether the pool settles because it is new: nothing is known of an earlier one.
function pool.is_new()
  return clock.is_settling() and pool.since == rate.began and codec.count(pool.counters, const.AT .. const.DATA_LOST) == 0
end

-- Take the tokens in reserves from the bucket, and return those that the worker had and no handshake has used.
function pool.hold_tokens()
  if pool.is_new() then rate.set_aside(not pool.is_known and report.version > 0) end
  rate.hold(pool.reserve)
  rate.take_back(math.min(report.unused, math.max(0, pool.was.reserve - report.reserve)))
  rate.hold(pool.others_reserve() + report.reserve)
end

function pool.next_version()
  return pool.version + 1
end

-- Count this worker with what it holds now; one that says goodbye and holds nothing is no longer counted.
function pool.count(others, held)
  pool.held, pool.stays = held, not (report.goodbye and held == 0)
  pool.total, pool.version = others + held, pool.next_version()
  pool.workers = leases.workers - leases.leaving - (pool.is_known and 1 or 0) + (pool.stays and 1 or 0)
  local drains = pool.stays and report.draining or 0
  pool.draining = pool.draining - leases.drained - pool.was.draining + drains
  pool.speed = pool.speed - leases.slowed - pool.was.speed + (pool.stays and report.speed or 0)
  pool.own_reserve, pool.reserve = report.reserve, pool.others_reserve() + report.reserve
end

-- Count more slots for this worker's reserve.
function pool.count_ahead(number)
  pool.held, pool.total = pool.held + number, pool.total + number
  pool.own_reserve, pool.reserve = pool.own_reserve + number, pool.reserve + number
end

-- Slots that connections hold.
function pool.in_use()
  return pool.total - pool.reserve
end

-- Whether there is room below a limit, and more than is about to be taken.
function pool.is_open_below(limit)
  return not overrides.is_paused and limit - pool.total > const.NEAR_FULL * limit
end

function pool.is_open()
  return pool.is_open_below(pool.limit)
end

-- Why a handshake of this worker would be refused for want of a slot now, or ''.
function pool.shut()
  if overrides.is_paused then return 'paused' end
  if pool.total >= pool.limit then return 'full' end
  return clock.is_settling() and pool.held >= report.allowance and 'settling' or ''
end

-- This worker's record as it is to be stored, with its slots by class and the number of its claims in a shared pool.
function pool.record(classes, claimed)
  -- Where all have the same settings, no record need say which its worker has.
  local server = settings.is_alone and string.match(report.server, '^[^#]*') or report.server
  return records.text(report.worker, {
    held = pool.held, seq = report.seq, seen = clock.now, left = codec.whole(clock.time + report.lease - clock.now),
    age = report.age, server = server, release = report.release, counters = report.counters, load = report.load,
    draining = report.draining > 0 and report.draining or '',
    speed = report.speed > 0 and codec.whole(report.speed) or '',
    reserve = pool.own_reserve > 0 and codec.whole(pool.own_reserve) or '',
    classes = classes or nil, claimed = classes and claimed,
  })
end

function pool.write(alert, classes, claimed)
  local whole, values, fields = codec.whole, const.POOL, const.POOL_FIELDS  -- tables with room for all
  values[const.FIELD.total], values[const.FIELD.version] = whole(pool.total - layouts.held), whole(pool.version)
  values[const.FIELD.clock], values[const.FIELD.real] = whole(clock.time), whole(clock.now)
  values[const.FIELD.settled], values[const.FIELD.limit] = whole(clock.settled), whole(pool.configured)
  values[const.FIELD.counters] = pool.counters_text(pool.since, pool.counters)
  values[const.FIELD.draining] = whole(pool.draining)
  values[const.FIELD.speed], values[const.FIELD.reserve] = whole(pool.speed), whole(pool.reserve)
  values[const.FIELD.alert], values[const.FIELD.pace] = alert, rate.text()
  values[const.FIELD.settings] = settings.stored_text(clock.time)
  pool.line = rate.has_line and line.text() or ''
  values[const.FIELD.line] = #pool.line <= const.LINE.bytes and pool.line or ''
  values[const.FIELD.check] = codec.seal('', table.concat(values, '\n', 1, #pool.FIELDS - 1), 8)
  for place, value in ipairs(values) do fields[2 * place] = value end
  if pool.stays then
    fields[2 * #pool.FIELDS + 1], fields[2 * #pool.FIELDS + 2] = report.worker, pool.record(classes, claimed)
  end
  redis.call('HSET', key.counts, unpack(fields))
end
