-- books: slots held by key, the pool's together and each worker's own, with the marks and seals by which damage is found.
--
-- A key is of const.KEY_BYTES bytes. Beside the keys, the pool's book has '#epoch', '#seal', and '#dead', the first of
-- the dead workers to be swept up, '#dead:NAME' the one after; a worker's has '#epoch' and '#since', its report that
-- began it. A worker's claims count in the pool's while both have the same '#epoch'.

local books = {SAMPLED = 32}

-- A count as it stands under a key: its digits, and two letters that depend on both. Much cheaper than a seal.
function books.marked(name, count)
  local high, low = string.byte(name, 1, 2)
  local mark = ((high * 256 + low) * 31 + count * 1009) % 676
  return string.format('%d%c%c', count, 97 + math.floor(mark / 26), 97 + mark % 26)
end

function books.is_marked(name, count, text)
  return books.marked(name, count) == text
end

-- A count as it is stored, 0 for none; nil where it is not as it was written.
function books.count(name, text)
  if not text then return 0 end
  local count = #name > 1 and #text <= 12 and codec.number(string.match(text, '^(%d+)%l%l$'), const.MAX_LIMIT)
  return count and books.is_marked(name, count, text) and count or nil
end

function books.since_text(name, epoch, since)
  local digits = codec.whole(since)
  return digits .. codec.seal(name, epoch .. '|' .. digits)
end

-- The epoch of a worker's own claims, and the report that began it.
function books.own(name, where)
  local epoch, sealed = unpack(redis.call('HMGET', where, '#epoch', '#since'))
  local since = epoch and sealed and #epoch <= 100 and codec.number(codec.unsealed(sealed))
  if since and books.since_text(name, epoch, since) == sealed then return epoch, since end
end

-- Whether a worker's book has as many keys as its record says.
function books.is_complete(length, claimed)
  return length - 2 == claimed
end

-- What seals the pool's claims: so many fields, of that epoch, and this dead worker is the first to be swept up.
function books.pool_seal(epoch, heir, fields)
  return fields .. '|' .. codec.seal(epoch, (heir or '') .. '|' .. fields, 8)
end

function books.is_pool_sealed(epoch, heir, sealed)
  return books.pool_seal(epoch, heir, redis.call('HLEN', key.claims)) == sealed
end

-- The epoch of the pool's book, false where it is damaged; and the first dead worker, false for none.
function books.pool()
  local epoch, sealed, heir = unpack(redis.call('HMGET', key.claims, '#epoch', '#seal', '#dead'))
  if not epoch and not sealed then return nil, false end
  local is_sound = epoch and sealed and #epoch <= 100 and #(heir or '') <= 100
    and (not heir or books.next_dead(heir) ~= nil) and books.is_pool_sealed(epoch, heir, sealed)
  if is_sound then return epoch, heir end
  return false, false
end

-- The dead worker that is to be swept up after this one, false for none, nil where nobody can tell.
function books.next_dead(name)
  local text = redis.call('HGET', key.claims, '#dead:' .. name)
  local after = text and #text <= 100 and codec.unsealed(text)
  if not after or after .. codec.seal(name, after) ~= text then return nil end
  return after ~= '' and after
end

-- Whether a few of the counts, chosen at random, are as they were written: damage is found before its client comes.
function books.is_sound()
  local found = redis.call('HRANDFIELD', key.claims, books.SAMPLED, 'WITHVALUES')
  for i = 1, #found, 2 do
    if string.sub(found[i], 1, 1) ~= '#' and not books.count(found[i], found[i + 1]) then return false end
  end
  return true
end

-- A part of a dead worker's counts by key, and these keys in order; nil where one is damaged.
function books.part(where)
  local counts, names = {}, {}
  local found = where and redis.call('HRANDFIELD', where, const.SWEPT_PER_CALL + 2, 'WITHVALUES') or {}
  for i = 1, #found, 2 do
    local name = found[i]
    if name ~= '#epoch' and name ~= '#since' then
      counts[name] = books.count(name, found[i + 1])
      if not counts[name] then return nil end
      names[#names + 1] = name
    end
  end
  return counts, names
end

-- What the pool counts under `names` beside the worker with the claims `own`, less a part of a dead worker's claims
-- `swept`, and the keys of that part; nil where any of these counts is not as it was written.
function books.sums(names, own, swept)
  local asked, once, sums = {}, {}, {}
  for i, name in ipairs(names) do asked[i], once[name] = name, true end
  local theirs, gone = books.part(swept)
  if not theirs then return nil end
  for _, name in ipairs(gone) do
    if not once[name] then asked[#asked + 1] = name end
  end
  if #asked == 0 then return sums, gone end
  local mine = own and #names > 0 and redis.call('HMGET', own, unpack(names)) or {}
  for i, text in ipairs(redis.call('HMGET', key.claims, unpack(asked))) do
    local name = asked[i]
    local all, ours = books.count(name, text), books.count(name, mine[i])
    local rest = all and ours and all - ours - (theirs[name] or 0)
    if not rest or rest < 0 then return nil end
    sums[name] = rest
  end
  return sums, gone
end
