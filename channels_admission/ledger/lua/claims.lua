-- claims: what this worker says of the slots under each key, and what the pool counts under them.
--
-- Where claims are lost or not as they were written, a new epoch begins, and everybody tells them again, until a reply
-- to that has been heard. A worker that was forgotten takes another name while its claims are being swept up under the
-- old one.

local claims = {
  keys = shared.keys or {}, mine = shared.held or {}, sum = {}, swept_up = {}, heir = false, retell = false, claimed = 0,
}

-- Whether the books are as they were written; reads the sums.
function claims.check(own_epoch, their_epoch)
  local epoch = claims.epoch
  if clock.is_fresh or not epoch then return clock.is_fresh or epoch == nil end
  if pool.is_known then
    local length = redis.call('HLEN', key.own)
    if not own_epoch and length > 0 then return false end
    if own_epoch == epoch and not books.is_complete(length, pool.was.claimed) then return false end
  end
  if report.is_heartbeat and not books.is_sound() then return false end
  local own, swept = own_epoch == epoch and key.own, their_epoch == epoch and key.swept
  claims.sum, claims.swept_up = books.sums(claims.keys, own, swept)
  return claims.sum ~= nil
end

-- Whether this worker was forgotten, and its turn to be swept up has yet to come: its claims of this epoch are still to be
-- given back, or those that it told now would be.
function claims.is_dead(is_current)
  return books.next_dead(report.worker) ~= nil or (is_current and redis.call('HLEN', key.own) > 2)
end

-- Begin a new epoch.
function claims.start_over(is_damaged)
  redis.call('UNLINK', key.claims, key.holders)
  claims.epoch, claims.heir = table.concat({clock.now, host.place(report.worker), report.seq}, '-'), false
  claims.sum, claims.swept_up = {}, {}
  clock.settle()
  pool.is_healed = pool.is_healed or is_damaged
end

-- Read the books; whether the worker may go on under its name.
function claims.open()
  claims.epoch, claims.heir = books.pool()
  claims.sweeps = key.swept and claims.heir == shared.sweep
  local own_epoch, own_since = books.own(report.worker, key.own)
  local their_epoch = claims.sweeps and books.own(shared.sweep, key.swept)
  local is_right = claims.check(own_epoch, their_epoch)
  local is_current = own_epoch and own_epoch == claims.epoch
  if is_right and not pool.is_known and not clock.is_fresh then
    if claims.is_dead(is_current) then return false end
    if is_current then own_epoch, is_current = nil, false end
  end
  local is_lost = (pool.is_known and not own_epoch) or (is_current and pool.was.seq < shared.heard)
    or (claims.sweeps and not their_epoch)
  if clock.is_fresh or not claims.epoch or not is_right or is_lost then
    claims.start_over(not is_right)
    claims.sweeps = false
  elseif their_epoch and their_epoch ~= claims.epoch then
    redis.call('UNLINK', key.swept)
  end
  is_current = own_epoch == claims.epoch
  if not is_current then redis.call('UNLINK', key.own) end
  claims.since = is_current and own_since or report.seq
  for i, name in ipairs(claims.keys) do claims.sum[name] = (claims.sum[name] or 0) + claims.mine[i] end
  claims.retell = shared.heard > 0 and shared.heard < claims.since
  return true
end

-- Count what was granted, by the place of its key, and write what grows; what vanishes is to be dropped after that.
function claims.write(granted)
  claims.gone, claims.untold = {}, {}
  local counted = {'#epoch', claims.epoch}
  local told = {'#epoch', claims.epoch, '#since', books.since_text(report.worker, claims.epoch, claims.since)}
  for i, name in ipairs(claims.keys) do
    local more = granted[i] or 0
    local mine = claims.mine[i] + more
    claims.sum[name] = claims.sum[name] + more
    if mine > 0 then told[#told + 1], told[#told + 2] = name, books.marked(name, mine)
    else claims.untold[#claims.untold + 1] = name end
  end
  for name, count in pairs(claims.sum) do
    if count > 0 then counted[#counted + 1], counted[#counted + 2] = name, books.marked(name, count)
    else claims.gone[#claims.gone + 1] = name end
  end
  redis.call('HSET', key.own, unpack(told))
  redis.call('HSET', key.claims, unpack(counted))
end

-- Drop the keys under which nothing is held.
function claims.drop()
  if #claims.gone > 0 then redis.call('HDEL', key.claims, unpack(claims.gone)) end
  if #claims.untold > 0 then redis.call('HDEL', key.own, unpack(claims.untold)) end
  claims.claimed = redis.call('HLEN', key.own) - 2
end

-- Drop the part of a dead worker's claims that is swept up; whether nothing is left of them.
function claims.sweep()
  if not claims.sweeps then return false end
  if #claims.swept_up > 0 then redis.call('HDEL', key.swept, unpack(claims.swept_up)) end
  if redis.call('HLEN', key.swept) > 2 then return false end
  claims.heir = books.next_dead(shared.sweep)
  redis.call('UNLINK', key.swept)
  redis.call('HDEL', key.claims, '#dead', '#dead:' .. shared.sweep)
  if claims.heir then redis.call('HSET', key.claims, '#dead', claims.heir) end
  return true
end

-- Let the dead be swept up, one after the other, and seal the pool's book.
function claims.seal()
  if not pool.stays then
    if claims.claimed > 0 then leases.with_claims[#leases.with_claims + 1] = report.worker
    else redis.call('UNLINK', key.own) end
  end
  table.sort(leases.with_claims)
  for _, name in ipairs(leases.with_claims) do
    local after = claims.heir or ''
    redis.call('HSET', key.claims, '#dead:' .. name, after .. codec.seal(name, after), '#dead', name)
    claims.heir = name
  end
  redis.call('HSET', key.claims, '#seal', '')
  local seal = books.pool_seal(claims.epoch, claims.heir, redis.call('HLEN', key.claims))
  redis.call('HSET', key.claims, '#seal', seal)
end
