-- holders: the slots under a key, and since when each is held, in quotas whose oldest connection gives way.
--
-- The oldest ones are beyond the maximum; each worker is told how many of its own, for as long as they are counted. A
-- field is most;worker=since,since;worker=since and a seal, with times of the pool's clock; one that is not as it was
-- written is taken to be empty. '@worker' has the keys under which a worker is told to end connections.

local holders = {OFFSET = 1e12, BYTES = 16384, of = {}, changed = {}, posted = {}, due = {}, dead = {}}

function holders.parse(name, sealed)
  local found = {most = 0, parts = {}, number = 0}
  if not sealed or #sealed > holders.BYTES then return found end
  local text = codec.unsealed(sealed)
  if text .. codec.seal(name, text) ~= sealed then return found end
  found.most = codec.number(string.match(text, '^%d+')) or 0
  for worker, times in string.gmatch(text, ';([^;=]+)=([%d,]+)') do
    local list = {}
    for time in string.gmatch(times, '%d+') do list[#list + 1] = tonumber(time) end
    found.parts[worker], found.number = list, found.number + #list
  end
  return found
end

function holders.text(name, found)
  local parts = {codec.whole(found.most)}
  for worker, list in pairs(found.parts) do
    local times = {}
    for i, since in ipairs(list) do times[i] = codec.whole(since) end
    parts[#parts + 1] = worker .. '=' .. table.concat(times, ',')
  end
  local text = table.concat(parts, ';')
  return text .. codec.seal(name, text)
end

function holders.load(names)
  local missing = {}
  for _, name in ipairs(names) do
    if not holders.of[name] then missing[#missing + 1], holders.of[name] = name, {} end
  end
  if #missing == 0 then return end
  for i, text in ipairs(redis.call('HMGET', key.holders, unpack(missing))) do
    holders.of[missing[i]] = holders.parse(missing[i], text)
  end
end

function holders.replace(name, worker, list)
  local found = holders.of[name]
  if not (found.parts[worker] or list) then return end
  found.number = found.number - #(found.parts[worker] or {}) + #(list or {})
  found.parts[worker], holders.changed[name] = list, true
end

-- Whether any is needed; a dead worker may have had such a quota where the one that sweeps up after it has none.
function holders.find_need()
  for _, quota in ipairs(shared.quotas) do
    if quota.oldest then holders.is_asked = true end
  end
  holders.is_needed = holders.is_asked or (shared.sweep ~= '' and redis.call('HLEN', key.holders) > 0)
end

-- What this worker says of its own slots, and no more of a dead worker's that are swept up.
function holders.tell()
  holders.find_need()
  if not holders.is_needed then return end
  holders.load(claims.keys)
  holders.load(claims.swept_up)
  for _, name in ipairs(claims.swept_up) do holders.replace(name, shared.sweep, nil) end
  for _, name in ipairs(claims.keys) do holders.replace(name, report.worker, nil) end
  for _, each in ipairs(shared.ages) do
    local name, list = claims.keys[each.place], {}
    for i, age in ipairs(each.ages) do list[i] = clock.time + holders.OFFSET - age end
    holders.of[name].most = quotas.most[each.quota]
    holders.replace(name, report.worker, list)
  end
end

-- Whether one more than `count` slots may be counted: as far as it is known who gives way, and never twofold.
function holders.allow(quota, place, count)
  if clock.is_settling() or not shared.quotas[quota].oldest then return false end
  local most = quotas.most[quota]
  return count + 1 - most <= math.min(holders.of[claims.keys[place]].number, most)
end

function holders.grant(quota, place)
  if place == 0 or not shared.quotas[quota].oldest then return end
  local name, list = claims.keys[place], {}
  for i, since in ipairs(holders.of[name].parts[report.worker] or {}) do list[i] = since end
  list[#list + 1] = clock.time + holders.OFFSET
  holders.of[name].most = quotas.most[quota]
  holders.replace(name, report.worker, list)
end

-- Whether the claims of a worker are still to be swept up. It may go on under another name, and tell the same slots.
function holders.is_dead(worker)
  if holders.dead[worker] == nil then
    holders.dead[worker] = redis.call('HGET', key.claims, '#dead:' .. worker) and true or false
  end
  return holders.dead[worker]
end

-- How many of the oldest each worker has to end, of `count`; the dead end none, and none ends for theirs.
function holders.evicted(name, count)
  local excess, everyone, numbers = count - holders.of[name].most, {}, {}
  if excess <= 0 or holders.of[name].number == 0 then return numbers end
  for worker, list in pairs(holders.of[name].parts) do
    if holders.is_dead(worker) then
      excess = excess - #list
    else
      for _, since in ipairs(list) do everyone[#everyone + 1] = {since, worker} end
    end
  end
  table.sort(everyone, function(a, b)
    if a[1] ~= b[1] then return a[1] < b[1] end
    return a[2] < b[2]
  end)
  for i = 1, math.min(excess, #everyone) do
    local worker = everyone[i][2]
    numbers[worker] = (numbers[worker] or 0) + 1
  end
  return numbers
end

-- The keys under which a worker is told to end connections.
function holders.mailbox(worker)
  local text, names, size = redis.call('HGET', key.holders, '@' .. worker), {}, const.KEY_BYTES
  if not text or #text > size * const.MOST_POSTED or #text % size > 0 then return names end
  for at = 1, #text, size do names[#names + 1] = string.sub(text, at, at + size - 1) end
  return names
end

-- The keys that this call touches, or that are posted to this worker, each once, with the slots counted under it.
function holders.touched(mailbox)
  local names, counted = {}, {}
  for _, list in ipairs({claims.keys, claims.swept_up, mailbox}) do
    for _, name in ipairs(list) do
      if not counted[name] then names[#names + 1], counted[name] = name, 0 end
    end
  end
  for i, text in ipairs(#names > 0 and redis.call('HMGET', key.claims, unpack(names)) or {}) do
    counted[names[i]] = claims.sum[names[i]] or books.count(names[i], text) or 0
  end
  return names, counted
end

-- Post to others, and answer this worker, what is to be ended; the keys under which this worker has to.
function holders.post(names, counted)
  local mine = {}
  for _, name in ipairs(names) do
    for worker, number in pairs(holders.evicted(name, counted[name])) do
      if worker ~= report.worker then
        holders.posted[worker] = holders.posted[worker] or {}
        table.insert(holders.posted[worker], name)
      elseif #mine < const.MOST_POSTED then
        mine[#mine + 1] = name
        local hex = string.gsub(name, '.', function(byte) return string.format('%02x', string.byte(byte)) end)
        holders.due[#holders.due + 1] = hex .. '=' .. number
      end
    end
  end
  return mine
end

-- The keys posted to another worker, with those that are new.
function holders.with_new(worker, new)
  local names, has = holders.mailbox(worker), {}
  for _, name in ipairs(names) do has[name] = true end
  for _, name in ipairs(new) do
    if not has[name] and #names < const.MOST_POSTED then names[#names + 1] = name end
  end
  return table.concat(names)
end

-- Grant what was granted, and write all that has changed now that the claims are counted.
function holders.write(granted)
  if not holders.is_needed then return end
  for _, ask in ipairs(granted) do
    for quota, place in ipairs(ask.claims) do holders.grant(quota, place) end
  end
  holders.dead[report.worker] = false
  for _, worker in ipairs(leases.with_claims) do holders.dead[worker] = true end
  local mailbox = holders.mailbox(report.worker)
  holders.load(mailbox)
  local names, counted = holders.touched(mailbox)
  if #names == 0 then return end
  local mine, fields, gone = holders.post(names, counted), {}, {}
  for name in pairs(holders.changed) do
    local found = holders.of[name]
    if found.number == 0 then gone[#gone + 1] = name
    else fields[#fields + 1], fields[#fields + 2] = name, holders.text(name, found) end
  end
  for worker, new in pairs(holders.posted) do
    fields[#fields + 1], fields[#fields + 2] = '@' .. worker, holders.with_new(worker, new)
  end
  if #mine > 0 then fields[#fields + 1], fields[#fields + 2] = '@' .. report.worker, table.concat(mine)
  elseif #mailbox > 0 then gone[#gone + 1] = '@' .. report.worker end
  if #fields > 0 then redis.call('HSET', key.holders, unpack(fields)) end
  if #gone > 0 then redis.call('HDEL', key.holders, unpack(gone)) end
end

-- Nothing more is to be told to a dead worker.
function holders.close_mailbox(worker)
  if holders.is_needed then redis.call('HDEL', key.holders, '@' .. worker) end
end
