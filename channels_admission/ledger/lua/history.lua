-- history: two rings, of seconds and of minutes, in which stands what was decided and the most that was held.
--
-- An entry is when|most held|limit|admitted|refused by reason, as counters; when is the number of the second or the
-- minute since 1970, held and limit are '' where nobody has reported in it. It has at most so many bytes that 1,440
-- take less than 200 kB: the rarest reasons share a name where there is no room.

local history = {NO_HANDSHAKES = const.NO_HANDSHAKES, INCIDENTS = const.INCIDENTS}

-- Counters that have risen since they were `before`, and by how much.
function history.rises_since(before)
  local rises = {}
  if report.counters == before then return rises end
  local old = codec.tally(before, true)
  for name, count in pairs(codec.tally(report.counters, true)) do
    local rise = count - (old[name] or 0)
    if rise > 0 then rises[name] = rise end
  end
  return rises
end

-- What rose and was counted neither by this ledger nor before a loss of its data, of which the worker has heard.
function history.uncounted()
  if report.acknowledged == pool.was.counters then return history.rises end
  local now, heard, news = codec.tally(report.counters, true), codec.tally(report.acknowledged, true), {}
  for name, rise in pairs(history.rises) do
    local rest = math.min(rise, now[name] - (heard[name] or 0))
    if rest > 0 then news[name] = rest end
  end
  return news
end

function history.is_fault(name)
  return string.sub(name, 1, #const.FAULT) == const.FAULT
end

function history.is_decision(name)
  if history.NO_HANDSHAKES[name] then return false end
  return string.sub(name, 1, #const.DRY) ~= const.DRY and not history.is_fault(name)
end

-- This second for each incident among the `news`, and for each of the workers that are gone.
function history.dates(news, gone)
  local dates = {}
  for name in pairs(news) do
    local incident = history.INCIDENTS[name] and name or history.is_fault(name) and const.FAULT
    if incident then dates[const.AT .. incident] = history.second end
  end
  for _, name in ipairs(gone) do
    local host, pid = string.match(name, '^([^:]*):(%d+):')
    if host then dates[const.GONE .. host .. ':' .. pid] = history.second end
  end
  return dates
end

function history.add(decided, at, name, count)
  local counts = decided[at] or {}
  decided[at], counts[name] = counts, (counts[name] or 0) + count
end

-- Deal `count` handshakes out over the `span` seconds that end with this one, as far as they reach.
function history.spread(name, count, span)
  span = math.min(span, count)
  local least, more = math.floor(count / span), count % span
  for i = 1, span do
    local second, share = history.second - i + 1, i <= more and least + 1 or least
    history.add(history.by_second, second, name, share)
    history.add(history.by_minute, math.floor(second / 60), name, share)
  end
end

-- Handshakes are spread evenly over the seconds since the worker's last report, one second in a herd. When those of a
-- worker that the ledger has forgotten were decided, nobody knows.
function history.collect()
  local told_at = pool.was.seen
  history.second, history.minute = math.floor(clock.now / 1000), math.floor(clock.now / 60000)
  if not pool.is_known and report.version == 0 then told_at = clock.now - report.age end
  history.by_second, history.by_minute = {[history.second] = {}}, {[history.minute] = {}}
  history.rises = history.rises_since(pool.was.counters)
  if not told_at then return end
  local span = math.max(1, math.min(history.second - math.floor(told_at / 1000), const.SPREAD))
  for name, rise in pairs(history.rises) do
    if history.is_decision(name) then history.spread(name, rise, span) end
  end
end

-- Reasons as counters, the most frequent first, in `room` bytes.
function history.listed(refused, room)
  local names, parts, sum, length = {}, {}, 0, -1
  for name in pairs(refused) do names[#names + 1] = name end
  table.sort(names, function(a, b)
    if refused[a] ~= refused[b] then return refused[a] > refused[b] end
    return a < b
  end)
  for i, name in ipairs(names) do
    parts[i], sum = codec.counter(name, refused[name]), sum + refused[name]
    length = length + 1 + #parts[i]
  end
  if length <= room then return table.concat(parts, ',') end
  local kept, other = {}, 0
  room = room - #codec.counter(const.OTHER, sum)
  for i, name in ipairs(names) do
    if name ~= const.OTHER and #parts[i] < room then
      kept[#kept + 1], room = parts[i], room - #parts[i] - 1
    else
      other = other + refused[name]
    end
  end
  kept[#kept + 1] = codec.counter(const.OTHER, other)
  return table.concat(kept, ',')
end

-- The entry `at` with the `news` of it, and with what is `held` now, if that is not nil; nil where nothing is new.
function history.entry(text, at, news, held)
  text = text and #text <= const.LONGEST_BUCKET and text or ''
  local when, most, bound, admitted, reasons = string.match(text, '^(%d+)|(%d*)|(%d*)|(%d+)|(.*)$')
  admitted = admitted and codec.digits(admitted)
  local is_known = admitted and codec.digits(when) == at
  most, bound = codec.digits(is_known and most or '', const.MAX_LIMIT), codec.digits(is_known and bound or '', const.MAX_LIMIT)
  if not is_known then admitted, reasons = 0, '' end
  local is_new = not is_known or next(news)
  if held and (held > (most or -1) or pool.limit ~= bound) then
    most, bound, is_new = math.max(held, most or 0), pool.limit, true
  end
  if not is_new then return nil end
  local refused = codec.tally(reasons)
  for name, count in pairs(news) do
    if name == const.ADMITTED then admitted = admitted + count else refused[name] = (refused[name] or 0) + count end
  end
  text = string.format('%d|%s|%s|%.0f|', at, most or '', bound or '', admitted)
  return text .. history.listed(refused, const.LONGEST_BUCKET - #text)
end

-- Add to a ring of that `size` what was decided in each second or minute, and to the one that runs what is held.
function history.remember(ring, size, now, decided)
  local times, places, fields = {}, {}, {}
  for at in pairs(decided) do
    times[#times + 1], places[#places + 1] = at, at % size
  end
  for i, text in ipairs(redis.call('HMGET', ring, unpack(places))) do
    local at = times[i]
    local entry = history.entry(text, at, decided[at], at == now and pool.in_use() or nil)
    if entry then fields[#fields + 1], fields[#fields + 2] = places[i], entry end
  end
  if #fields > 0 then redis.call('HSET', ring, unpack(fields)) end
end

function history.write()
  history.remember(key.seconds, const.SECONDS, history.second, history.by_second)
  history.remember(key.minutes, const.MINUTES, history.minute, history.by_minute)
end
