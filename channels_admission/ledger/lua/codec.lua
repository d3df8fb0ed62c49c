-- codec: numbers, counters and seals as text.
--
-- What Redis returns may have been written by anybody. Each text is bounded before it is matched, no pattern tries a
-- byte twice, and a number is plain digits, in base 36 where a worker has written it: neither nan nor inf, no hex. What is
-- not as it must be is nil.

local codec = {LARGEST = 1e15}

-- A whole number from 0 to `most`.
function codec.number(text, most)
  local number = text and #text <= 15 and string.find(text, '^%d+$') and tonumber(text)
  return number and number <= (most or codec.LARGEST) and number or nil
end

-- The same for a text that a pattern has found to be digits.
function codec.digits(text, most)
  local number = #text <= 15 and tonumber(text)
  return number and number <= (most or codec.LARGEST) and number or nil
end

-- A number that '%.17g' has written, not below 0.
function codec.decimal(text)
  local number = text and #text <= 24 and string.find(text, '^%d[%d.e+-]*$') and tonumber(text)
  return number and number <= codec.LARGEST and number or nil
end

function codec.whole(number)
  return string.format('%.0f', number)
end

-- The bytes that tell whether `text` is still what the script has written under `name`.
function codec.seal(name, text, bytes)
  return string.sub(redis.sha1hex(name .. '\n' .. text), 1, bytes or const.SEAL)
end

-- A text without the seal at its end.
function codec.unsealed(sealed)
  return string.sub(sealed, 1, -1 - const.SEAL)
end

-- The same for texts that Python seals as well.
function codec.fingerprint(text)
  return string.sub(redis.sha1hex(text), 1, const.FINGERPRINT)
end

-- A number in base 36, as buckets.py writes it. A Redis of 32 bits reads six digits at once, and no more.
function codec.numeral(text)
  if #text <= 6 then return tonumber(text, 36) end
  if #text > const.NUMERAL_BYTES then return nil end
  return tonumber(string.sub(text, 1, -7), 36) * 36 ^ 6 + tonumber(string.sub(text, -6), 36)
end

-- Counters by their names, from 'name=count,name=count'; those that a worker has reported are in base 36.
function codec.tally(text, is_reported)
  local counts, read = {}, is_reported and codec.numeral or codec.number
  if #text > const.COUNTERS_BYTES then return counts end
  for part in string.gmatch(text, '[^,]+') do
    if #part <= const.COUNTER_BYTES then
      local name, count = string.match(part, '^([^=]+)=(%w+)$')
      if name then counts[name] = read(count) end
    end
  end
  return counts
end

-- One of them; 0 where it is not there.
function codec.count(text, name)
  local count = string.match(',' .. text, ',' .. name .. '=(%d+)')
  return count and codec.digits(count) or 0
end

function codec.counter(name, count)
  return name .. '=' .. codec.whole(count)
end

-- Times in place of earlier ones; of the workers that are gone only the last few stay.
function codec.date(sum, dates)
  local gone = {}
  for name, at in pairs(dates) do sum[name] = at end
  for name in pairs(sum) do
    if string.sub(name, 1, #const.GONE) == const.GONE then gone[#gone + 1] = name end
  end
  table.sort(gone, function(a, b)
    if sum[a] ~= sum[b] then return sum[a] > sum[b] end
    return a < b
  end)
  for i = const.GONE_KEPT + 1, #gone do sum[gone[i]] = nil end
end

-- The pool's counters as text, with those that have risen, and the times of what is told by its time.
function codec.add(text, rises, dates)
  local sum, parts, names = codec.tally(text), {}, 0
  for _ in pairs(sum) do names = names + 1 end
  for name, rise in pairs(rises) do
    if not sum[name] then names = names + 1 end
    if sum[name] or names <= const.COUNTERS_KEPT then
      sum[name] = math.min((sum[name] or 0) + rise, codec.LARGEST - 1)
    end
  end
  if next(dates) then codec.date(sum, dates) end
  for name, count in pairs(sum) do parts[#parts + 1] = codec.counter(name, count) end
  return table.concat(parts, ',')
end
