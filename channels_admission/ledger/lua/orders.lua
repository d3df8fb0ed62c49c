-- orders: each of those that operators have set.

local orders = {}

-- The value of each order: NAME=VALUE,AT,BY, or VALUE/OVER.
function orders.values(text)
  local values = {}
  for entry in string.gmatch(text, ';([^;]+)') do
    local name, value, at, by = string.match(entry, '^([a-z_]+)=([^,]*),([^,]*),([^,]*)$')
    if name and #value <= 20 and string.find(at, '^[%d.]+$') and string.find(by, '^[%w._~%%-]*$') then
      values[name] = values[name] or string.match(value, '^(%d+)/?[%d.]*$')
    end
  end
  return values
end

-- The highest version of the pool at which a drain was ordered: no worker that registers later may have a lower one.
function orders.last(text)
  local last = 0
  for entry in string.gmatch(text, ';([^;]+)') do
    last = math.max(last, codec.number(string.match(entry, '^drain:[^=]*=(%d+):')) or 0)
  end
  return last
end

-- Whether a drain of all or of a worker is done: everybody has heard of it, and nobody drains. A host's is for workers to
-- come, too.
function orders.is_over(target, ordered_at)
  local heard_by_all = clock.time - (settings.in_force.lease or report.lease)
  if ordered_at > heard_by_all and ordered_at <= clock.time then return false end
  if target == const.EVERY_WORKER then return true end
  return string.find(target, ':', 1, true) and not redis.call('HGET', key.counts, target)
end

-- The orders that are left with so many slots held and so many workers draining, and whether they are others than
-- before. An enforced limit is one like any other once the pool is within it.
function orders.left(text, held, limit, draining)
  local entries, is_changed = {}, false
  for entry in string.gmatch(text, ';([^;]+)') do
    local target, ordered_at = string.match(entry, '^drain:([^=]+)=%d+:(%d+)/')
    local value, rest = string.match(entry, '^limit=(%d+)/[%d.]+(,.*)$')
    if target and draining == 0 and orders.is_over(target, codec.number(ordered_at) or 0) then
      is_changed = true
    elseif value and held <= limit then
      entries[#entries + 1], is_changed = ';limit=' .. value .. rest, true
    else
      entries[#entries + 1] = ';' .. entry
    end
  end
  return table.concat(entries), is_changed
end
