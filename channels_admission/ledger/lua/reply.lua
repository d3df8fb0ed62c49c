-- reply: what the worker is answered, as codec.py reads it.

local reply = {}

-- What is set outlives a quiet night. Keys that these settings do not need are left alone.
function reply.is_renewed(name)
  if name == 'controls' then return not string.find(overrides.set, ';', 1, true) end
  if name == 'attempts' then return attempts.is_needed end
  if name == 'tickets' then return report.shown end
  return name ~= 'holders' or holders.is_asked
end

function reply.renew_keys()
  for name, where in pairs(key) do
    if reply.is_renewed(name) then redis.call('PEXPIRE', where, report.expiry) end
  end
end

-- 'ok', seq, granted, total, limit, workers, version, settling, lapsed, why not all ('' or a reason), first retry time,
-- from one to the next, real time since the pace began ('' or ms, as text), Redis's time (ms, as text), controls if newer
-- ('' if not), level (0-3), edges to tell of, verdicts (a letter for each ask), tell all claims again?, dead worker to be
-- swept up ('': none), put damaged counts right?, ms until the next attempt may pass, for each that was refused for its
-- rate (as text), the settings in force, where they are not the worker's (else ''), handshakes with tickets that are
-- granted, in a pool that is not shared, those that are refused with ms until they should come again, are tickets expected?,
-- key (hex)=how many of its oldest connections this worker is to end,..., slots held in other layouts, slots granted for
-- the reserve, the most that it may have, slots in the reserves of others, and the neighbours.
function reply.of(neighbours)
  return {
    'ok', report.seq, grants.slots, pool.total, pool.limit, pool.workers - pool.draining + layouts.workers,
    pool.version,
    clock.is_settling() and 1 or 0, pool.is_lapsed and 1 or 0, grants.why, tostring(rate.first), tostring(rate.step),
    tostring(rate.elapsed), tostring(clock.now), overrides.news(), levels.level, levels.told,
    table.concat(grants.verdicts), claims.retell and 1 or 0, claims.heir or '', pool.is_healed and 1 or 0,
    table.concat(attempts.waits or {}, ','), settings.differ,
    report.shown and not report.shared and tickets.granted_text() or '', report.shown and tickets.turns or '',
    rate.has_line and line.is_expecting() and 1 or 0, table.concat(holders.due or {}, ','), layouts.held,
    grants.ahead, grants.most_in_reserve, pool.reserve - pool.own_reserve, unpack(neighbours),
  }
end
