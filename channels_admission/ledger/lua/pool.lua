-- pool: the pool's own fields, const.POOL, which the last of them seals, and this worker's record before this call.

local pool = {is_healed = false}

function pool.is_sealed(values)
  return codec.seal('', table.concat(values, '\n', 1, #const.POOL - 1), 8) == values[#const.POOL]
end

-- Whether there are as many records as workers in the queue.
function pool.is_complete(length)
  return length == leases.workers + #const.POOL
end

-- The fields, if all of them are there and as they were written.
function pool.parse(values)
  local texts, stored = {}, {}
  for i, name in ipairs(const.POOL) do
    if not values[i] then return nil end
    texts[name] = values[i]
  end
  stored.counters, stored.alert, stored.pace = texts['#counters'], texts['#alert'], rate.parse(texts['#pace'])
  if #stored.counters > codec.COUNTERS_BYTES or #stored.alert > 4096 or not stored.pace then return nil end
  for _, name in ipairs({'total', 'version', 'clock', 'real', 'settled', 'limit', 'draining'}) do
    stored[name] = codec.number(texts['#' .. name])
    if not stored[name] then return nil end
  end
  return pool.is_sealed(values) and stored or nil
end

-- Read the pool's own fields, this worker's record, and those of the next to be looked at.
function pool.read()
  leases.load()
  local fields, others = {report.worker}, #leases.looked_at
  for i, name in ipairs(leases.looked_at) do fields[i + 1] = name end
  for i, name in ipairs(const.POOL) do fields[others + 1 + i] = name end
  local found = redis.call('HMGET', key.counts, unpack(fields))
  local stored = pool.parse({unpack(found, others + 2, #fields)})
  local length, record = redis.call('HLEN', key.counts), records.parse(report.worker, found[1])
  settings.load(found[#fields - 1])
  local is_whole = leases.look({unpack(found, 2, others + 1)}, stored and stored.clock)
  is_whole = is_whole and stored and pool.is_complete(length) and (record or not found[1])
  if is_whole and (not record or leases.has_own()) then return stored, record end
  pool.is_healed = length + leases.workers > 0
  return nil, nil
end

-- Missing, torn (a key evicted, a field deleted) or damaged: start over, the living report themselves again.
function pool.start_over()
  redis.call('DEL', key.counts, key.leases)
  leases.workers, leases.looked_at = 0, {}
  return {
    total = 0, version = overrides.last_order(), clock = clock.now, real = clock.now, settled = clock.now,
    counters = '', draining = 0, alert = '0|',
  }
end

-- What is known of this worker. Of one that is not counted it is what itself has heard.
function pool.before(record)
  if record then return record end
  local counters = clock.is_fresh and '' or report.acknowledged
  return {held = 0, seq = 0, draining = 0, started = clock.now - report.age, counters = counters}
end

function pool.load()
  local stored, record = pool.read()
  stored = stored or pool.start_over()
  clock.advance(stored, not stored.pace)
  rate.load(stored.pace)
  pool.total, pool.counters, pool.draining, pool.alert = stored.total, stored.counters, stored.draining, stored.alert
  pool.version = clock.has_lost and report.version or stored.version
  pool.configured = settings.in_force.limit
  pool.limit = overrides.limit or pool.configured
  pool.is_known, pool.was = record ~= nil, pool.before(record)
  pool.is_lapsed = not record and report.version > 0 and not clock.is_fresh
end

-- Slots that all the others hold, now that the dead are forgotten.
function pool.others()
  return pool.total - pool.was.held - leases.freed
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
end

-- This worker's record as it is to be stored, with its slots by class and the number of its claims in a shared pool.
function pool.record(classes, claimed)
  -- Where all have the same settings, no record need say which its worker has.
  local server = settings.is_alone and string.match(report.server, '^[^#]*') or report.server
  return records.text(report.worker, {
    held = pool.held, seq = report.seq, seen = clock.now, ends = clock.time + report.lease, started = pool.was.started,
    server = server, counters = report.counters, load = report.load, draining = report.draining,
    classes = classes or nil, claimed = classes and claimed,
  })
end

function pool.write(alert, classes, claimed)
  local whole, values, fields = codec.whole, {}, {}
  local texts = {
    ['#total'] = whole(pool.total), ['#version'] = whole(pool.version), ['#clock'] = whole(clock.time),
    ['#real'] = whole(clock.now), ['#settled'] = whole(clock.settled), ['#limit'] = whole(pool.configured),
    ['#counters'] = pool.counters, ['#draining'] = whole(pool.draining), ['#alert'] = alert, ['#pace'] = rate.text(),
    ['#settings'] = settings.stored_text(clock.time),
  }
  for i, name in ipairs(const.POOL) do values[i] = texts[name] end
  values[#const.POOL] = codec.seal('', table.concat(values, '\n'), 8)
  for i, name in ipairs(const.POOL) do fields[2 * i - 1], fields[2 * i] = name, values[i] end
  if pool.stays then
    fields[#fields + 1], fields[#fields + 2] = report.worker, pool.record(classes, claimed)
  end
  redis.call('HSET', key.counts, unpack(fields))
end
