-- overrides: what operators have set, as Redis or this worker knows it, the newer of both. An altered text sets nothing.

local overrides = {}

function overrides.is_sealed(text, seal)
  return seal == codec.fingerprint(text)
end

-- The text that is stored; '' where it is not as the script has written it.
function overrides.stored_text()
  local text, seal = unpack(redis.call('HMGET', key.controls, 'set', 'seal'))
  local is_right = text and #text <= const.CONTROLS_BYTES and overrides.is_sealed(text, seal)
  return is_right and text or ''
end

-- The version of a text; 0 where it is none of ours.
function overrides.version(text)
  return #text <= const.CONTROLS_BYTES and codec.number(string.match(text, '^%d+'), const.LATEST_VERSION) or 0
end

-- The value of each order: NAME=VALUE,AT,BY, or VALUE/OVER.
function overrides.orders(text)
  local orders = {}
  for entry in string.gmatch(text, ';([^;]+)') do
    local name, value, at, by = string.match(entry, '^([a-z_]+)=([^,]*),([^,]*),([^,]*)$')
    if name and #value <= 20 and string.find(at, '^[%d.]+$') and string.find(by, '^[%w._~%%-]*$') then
      orders[name] = orders[name] or string.match(value, '^(%d+)/?[%d.]*$')
    end
  end
  return orders
end

-- The highest version of the pool at which a drain was ordered: no worker that registers later may have a lower one.
function overrides.last_order()
  local last = 0
  for entry in string.gmatch(overrides.set, ';([^;]+)') do
    last = math.max(last, codec.number(string.match(entry, '^drain:[^=]*=(%d+):')) or 0)
  end
  return last
end

function overrides.load()
  overrides.stored = overrides.stored_text()
  overrides.set = overrides.stored
  if overrides.version(overrides.stored) < overrides.version(report.controls) then overrides.set = report.controls end
  if overrides.version(overrides.set) == 0 then overrides.set = '0' end
  local orders = overrides.orders(overrides.set)
  overrides.limit, overrides.is_paused = codec.number(orders.limit, const.MAX_LIMIT), orders.paused == '1'
end

-- Whether a drain of all or of a worker is done: everybody has heard of it, and nobody drains. A host's is for workers to
-- come, too.
function overrides.is_over(target, ordered_at)
  local heard_by_all = clock.time - (settings.in_force.lease or report.lease)
  if ordered_at > heard_by_all and ordered_at <= clock.time then return false end
  if target == const.EVERYBODY then return true end
  return string.find(target, ':', 1, true) and not redis.call('HGET', key.counts, target)
end

-- Drop the orders that are done, in a pool of which so many slots are held and so many workers drain. An enforced limit
-- is one like any other once the pool is within it.
function overrides.expire(held, limit, draining)
  if not report.is_heartbeat or clock.is_settling() or not string.find(overrides.set, ';', 1, true) then return end
  local entries, is_changed = {}, false
  for entry in string.gmatch(overrides.set, ';([^;]+)') do
    local target, ordered_at = string.match(entry, '^drain:([^=]+)=%d+:(%d+)/')
    local value, rest = string.match(entry, '^limit=(%d+)/[%d.]+(,.*)$')
    if target and draining == 0 and overrides.is_over(target, codec.number(ordered_at) or 0) then
      is_changed = true
    elseif value and held <= limit then
      entries[#entries + 1], is_changed = ';limit=' .. value .. rest, true
    else
      entries[#entries + 1] = ';' .. entry
    end
  end
  if is_changed then overrides.set = codec.whole(overrides.version(overrides.set) + 1) .. table.concat(entries) end
end

function overrides.write()
  if overrides.set == overrides.stored then return end
  redis.call('DEL', key.controls)  -- and with it its expiry
  redis.call('HSET', key.controls, 'set', overrides.set, 'seal', codec.fingerprint(overrides.set))
end

-- What this worker has yet to hear of.
function overrides.news()
  return overrides.version(overrides.set) > overrides.version(report.controls) and overrides.set or ''
end
