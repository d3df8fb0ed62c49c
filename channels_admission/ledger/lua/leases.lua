-- leases: the queue of all workers, of whom each call looks at the first and forgets those whose lease has run out.

local leases = {
  ends = {}, with_claims = {}, gone = {[report.worker] = true}, freed = 0, reserve = 0, leaving = 0, drained = 0,
  slowed = 0, lost = {},
}

function leases.load()
  leases.workers = redis.call('LLEN', key.leases)
  leases.looked_at = redis.call('LRANGE', key.leases, 0, const.LEASES_PER_CALL - 1)
end

-- Look at the records of the first in the queue, which stand in `sealed` after this worker's, at a `time` of the pool's
-- clock; whether all are as they were written. The first is compared with its seal, the others only where their lease may
-- have run out.
function leases.look(sealed, time)
  local is_whole = true
  for i, name in ipairs(leases.looked_at) do
    local theirs = sealed[1 + i]
    leases.ends[i] = i > 1 and time and records.lives(theirs, time) or records.ends(name, theirs)
    if theirs and not leases.ends[i] then is_whole = false end
  end
  return is_whole
end

-- Whether this worker is in the queue, looked for in some of its heartbeats: in a few workers' queue in all of them.
function leases.has_own()
  local is_due = report.is_heartbeat and report.seq % math.ceil(leases.workers / 256) == 0
  return not is_due or redis.call('LPOS', key.leases, report.worker)
end

-- The workers whose lease has run out. One whose record is damaged is not touched: when its turn to be looked at comes,
-- all start over.
function leases.dead()
  local dead = {}
  for i, name in ipairs(leases.looked_at) do
    if not leases.ends[i] or leases.ends[i] <= clock.time then dead[#dead + 1] = name end
  end
  if #dead == 0 then return dead end
  local looked_at = leases.looked_at
  local names = redis.call('LRANGE', key.leases, #looked_at, #looked_at + const.REAPED_PER_CALL - 1)
  for i, sealed in ipairs(#names > 0 and redis.call('HMGET', key.counts, unpack(names)) or {}) do
    local record = records.parse(names[i], sealed)
    if #dead == const.REAPED_PER_CALL or (sealed and not record) then break end
    looked_at[#looked_at + 1] = names[i]
    if not record or record.ends <= clock.time then dead[#dead + 1] = names[i] end
  end
  return dead
end

-- Forget the dead, and the workers of this host whose process is gone.
function leases.reap()
  local dead, names = leases.dead(), {}
  for _, name in ipairs(report.gone) do
    if host.has(name) then dead[#dead + 1] = name end
  end
  for _, name in ipairs(dead) do
    if not leases.gone[name] then names[#names + 1], leases.gone[name] = name, true end
  end
  leases.reaped = {}
  for i, sealed in ipairs(#names > 0 and redis.call('HMGET', key.counts, unpack(names)) or {}) do
    local record = records.parse(names[i], sealed)
    if record then leases.count_out(names[i], record) end
    if record or not sealed then leases.reaped[#leases.reaped + 1] = names[i] end
  end
end

function leases.count_out(name, record)
  leases.freed, leases.reserve = leases.freed + record.held, leases.reserve + record.reserve
  leases.drained, leases.slowed = leases.drained + record.draining, leases.slowed + record.speed
  leases.leaving = leases.leaving + 1
  leases.lost[leases.leaving] = name
  if report.shared and record.claimed > 0 then leases.with_claims[#leases.with_claims + 1] = name end
end

-- Let the workers that were looked at go to the end of the queue, and a new one join it; the dead leave.
function leases.rotate(is_new)
  local last_in_queue, leaving = {}, {}
  for _, name in ipairs(leases.reaped) do leaving[name] = true end
  for _, name in ipairs(leases.looked_at) do
    if not leaving[name] then last_in_queue[#last_in_queue + 1] = name end
    leaving[name] = nil
  end
  if is_new then last_in_queue[#last_in_queue + 1] = report.worker end
  if #last_in_queue > 0 then redis.call('RPUSH', key.leases, unpack(last_in_queue)) end
  if #leases.looked_at > 0 then redis.call('LTRIM', key.leases, #leases.looked_at, -1) end
  for name in pairs(leaving) do redis.call('LREM', key.leases, 1, name) end
  if #leases.reaped == 0 then return end
  redis.call('HDEL', key.counts, unpack(leases.reaped))
  host.remove(leases.reaped)
end
