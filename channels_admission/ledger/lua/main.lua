-- main: apply one worker's report to its pool and answer it, in one atomic step. base.py has the contract.
--
-- Writes that need memory come before those that give it back: Redis refuses a script for want of memory only before its
-- first write.

-- What stands.
clock.read()
overrides.load()
pool.load()
if records.is_late(pool.was.seq) then return {'out of order', report.seq, pool.was.seq} end
if report.shared and not claims.open() then return {'forgotten', report.seq} end
if report.shown then tickets.present() end
layouts.read()
history.collect()

-- Who is gone, and what is granted.
leases.reap()
local others = pool.others()
pool.hold_tokens()
if report.shared then
  quotas.load()
  attempts.load()
  holders.tell()
  grants.give_shared(others)
else
  grants.give(others)
end

-- What comes of it.
local news = history.uncounted()
if leases.leaving > 0 then news[const.LOST] = leases.leaving end
if next(news) then pool.counters = codec.add(pool.counters, news, history.dates(news, leases.lost)) end
rate.measure(pool.counters)
pool.count(others, report.held + grants.slots)
if (history.rises[const.ADMITTED] or 0) > 0 and not overrides.is_paused then rate.dry_since = 0 end
local why = grants.why ~= '' and grants.why or pool.shut()
if report.shown then tickets.tell(why, pool) end
rate.schedule(grants.refused, why, pool)
grants.give_ahead()
overrides.expire(pool.total, pool.limit, pool.draining)
local alert = levels.change()

-- What is written.
if report.shared then
  attempts.write()
  claims.write(grants.claims)
  holders.write(grants.granted())
  claims.drop()
  if claims.sweep() then holders.close_mailbox(shared.sweep) end
  claims.seal()
end
if report.shown then tickets.write() end
pool.write(alert, report.shared and quotas.classes_text(), claims.claimed)
layouts.write(pool.total - layouts.held, pool.workers, pool.draining)
history.write()
if pool.stays then host.add(report.worker) else leases.reaped[#leases.reaped + 1] = report.worker end
leases.rotate(pool.stays and not pool.is_known)
overrides.write()
reply.renew_keys()
return reply.of(report.is_heartbeat and host.neighbours() or {})
