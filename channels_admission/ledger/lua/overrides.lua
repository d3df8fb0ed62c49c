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

function overrides.load()
  overrides.stored = overrides.stored_text()
  overrides.set = overrides.stored
  if overrides.stored == '0' and report.controls == '' then return end  -- nothing was ever set, as nearly always
  if overrides.version(overrides.stored) < overrides.version(report.controls) then overrides.set = report.controls end
  if overrides.version(overrides.set) == 0 then overrides.set = '0' end
  local values = orders.values(overrides.set)
  overrides.limit, overrides.is_paused = codec.number(values.limit, const.MAX_LIMIT), values.paused == '1'
end

-- Drop the orders that are done, in a pool of which so many slots are held and so many workers drain. Those in other
-- layouts may have orders left, of which nothing is known here.
function overrides.expire(held, limit, draining)
  local is_due = report.is_heartbeat and not clock.is_settling() and not layouts.has_others
  if not is_due or not string.find(overrides.set, ';', 1, true) then return end
  local left, is_changed = orders.left(overrides.set, held, limit, draining)
  if is_changed then overrides.set = codec.whole(overrides.version(overrides.set) + 1) .. left end
end

function overrides.write()
  if overrides.set == overrides.stored then return end
  redis.call('DEL', key.controls)  -- and with it its expiry
  redis.call('HSET', key.controls, 'set', overrides.set, 'seal', codec.fingerprint(overrides.set))
end

-- What this worker has yet to hear of.
function overrides.news()
  if overrides.set == '0' then return '' end
  return overrides.version(overrides.set) > overrides.version(report.controls) and overrides.set or ''
end
