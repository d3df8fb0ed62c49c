-- layouts: what the workers of other releases hold, whose counts stand in keys of another layout (layout.py tells more).
--
-- The key is the same in all layouts, for ever: LAYOUT -> HELD|WORKERS|ENDS, the slots held, the workers that do not drain,
-- and the time by Redis (ms) from which this no longer counts: a lease after the last report of one of these workers.

local layouts = {BYTES = 64, held = 0, workers = 0, gone = {}, said = {}, has_others = false}

function layouts.own()
  return const.LAYOUT
end

function layouts.say(layout, held, workers, ends)
  layouts.said[#layouts.said + 1] = layout
  layouts.said[#layouts.said + 1] = string.format('%.0f|%.0f|%.0f', held, workers, ends)
end

-- Count what another layout says, and return true; false where it no longer counts, or nobody can have written it so.
-- As with all leases, an outage or a jump of Redis's clock ages what was alive before by two heartbeats at most.
function layouts.count(layout, text)
  local held, workers, ends = string.match(#text <= layouts.BYTES and text or '', '^(%d+)|(%d+)|(%d+)')
  held, workers = codec.number(held, const.MAX_LIMIT), codec.number(workers, const.MAX_LIMIT)
  ends = codec.number(ends)
  if not (held and workers and ends) then return false end
  if ends <= clock.now and ends > clock.last and clock.skipped > 0 then
    ends = ends + clock.skipped
    layouts.say(layout, held, workers, ends)
  end
  if ends <= clock.now or ends > clock.now + const.MAX_LEASE then return false end
  layouts.held, layouts.workers, layouts.has_others = layouts.held + held, layouts.workers + workers, true
  return true
end

function layouts.read()
  local said = redis.call('HGETALL', key.layouts)
  for i = 1, #said, 2 do
    local layout = said[i]
    if layout ~= layouts.own() and not layouts.count(layout, said[i + 1]) then
      layouts.gone[#layouts.gone + 1] = layout
    end
  end
end

-- Say for the others what this layout holds; without any worker it has nothing to say.
function layouts.write(held, workers, draining)
  local gone, own = layouts.gone, layouts.own()
  if workers == 0 then gone[#gone + 1] = own
  else layouts.say(own, held, workers - draining, clock.now + (settings.in_force.lease or report.lease)) end
  if #layouts.said > 0 then redis.call('HSET', key.layouts, unpack(layouts.said)) end
  if #gone > 0 then redis.call('HDEL', key.layouts, unpack(gone)) end
end
