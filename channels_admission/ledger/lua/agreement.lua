-- agreement: the strictest of all settings, where not all workers of the pool have the same (agreement.py has the rules).

local agreement = {GREATEST = const.GREATEST}

function agreement.parse_numbers(text)
  local numbers = {}
  for part in string.gmatch(text, '[^,]+') do
    local name, number = string.match(part, '^([^=]+)=(%d+%.?%d*)$')
    if name and #number <= 19 then numbers[name] = tonumber(number) end
  end
  return numbers
end

-- Let `numbers` be the strictest of themselves and `others`.
function agreement.narrow(numbers, others)
  for name, number in pairs(others) do
    local pick, was = agreement.GREATEST[name] and math.max or math.min, numbers[name] or number
    if name == const.SITE then numbers[name] = was == number and number or const.SEVERAL
    else numbers[name] = pick(was, number) end
  end
  return numbers
end

function agreement.text(numbers)
  local parts = {}
  for name, number in pairs(numbers) do
    local digits = string.format('%.9f', number)
    parts[#parts + 1] = name .. '=' .. string.gsub(string.gsub(digits, '0+$', ''), '%.$', '')
  end
  table.sort(parts)
  return table.concat(parts, ',')
end

function agreement.entry(text, ends, mark)
  local numbers = agreement.parse_numbers(text)
  local is_whole = numbers.limit and numbers.warn_at and numbers.lease and numbers.heartbeat
  if #text > const.LONGEST_SETTINGS or not is_whole then return nil end
  return {text = text, ends = ends, mark = mark or codec.fingerprint(text), numbers = numbers}
end

-- What is stored; an entry that is none of ours is dropped.
function agreement.parse(stored)
  local entries = {}
  if #stored > 2 * const.MOST_SETTINGS * const.LONGEST_SETTINGS then return entries end
  for part in string.gmatch(stored, '[^;]+') do
    local ends, mark, text = string.match(part, '^(%d+)|(%x+)|(.*)$')
    if ends and #ends <= 15 and codec.fingerprint(text) == mark then
      entries[#entries + 1] = agreement.entry(text, tonumber(ends), mark)
    end
  end
  return entries
end

-- The settings of others that are still about at this time of the pool's clock, and this worker's own, if stored.
function agreement.others(entries, time, is_lost)
  local kept, own = {}, nil
  for _, each in ipairs(entries) do
    each.ends = math.min(each.ends, time + each.numbers.lease)
    if is_lost then each.ends = time + const.SETTLING * each.numbers.heartbeat end
    if each.text == report.settings then own = each elseif each.ends > time then kept[#kept + 1] = each end
  end
  local before = is_lost and report.in_force ~= '' and agreement.entry(report.in_force, time)
  if before then
    before.ends = time + math.min(const.SETTLING * before.numbers.heartbeat, before.numbers.lease)
    kept[#kept + 1] = before
  end
  return kept, own
end

-- Let the two that end first become one, the strictest of both, while there are too many.
function agreement.merge(kept)
  while #kept > const.MOST_SETTINGS do
    table.sort(kept, function(a, b) return a.ends < b.ends end)
    local oldest = table.remove(kept, 1)
    local merged = agreement.text(agreement.narrow(agreement.narrow({}, oldest.numbers), kept[1].numbers))
    kept[1] = agreement.entry(merged, math.max(oldest.ends, kept[1].ends)) or kept[1]
  end
end

-- What is in force at this time of the pool's clock by the stored `entries` and this worker's own settings.
function agreement.reach(entries, time, is_lost)
  local kept, own = agreement.others(entries, time, is_lost)
  own = own or agreement.entry(report.settings, time, report.fingerprint)
  local slowest, was = 0, own.ends
  for _, each in ipairs(kept) do slowest = math.max(slowest, each.numbers.heartbeat) end
  local is_slower = #kept > 0 and own.numbers.heartbeat > slowest and was <= time
  slowest = math.max(slowest, own.numbers.heartbeat)
  own.ends = time + own.numbers.lease
  if report.is_last then own.ends = math.min(was, time + const.SETTLING * slowest) end
  if own.ends > time or #kept == 0 then kept[#kept + 1] = own end
  agreement.merge(kept)
  local all, parts = {}, {}
  for i, each in ipairs(kept) do
    agreement.narrow(all, each.numbers)
    parts[i] = string.format('%.0f|%s|%s;', each.ends, each.mark, each.text)
  end
  local text = agreement.text(all)
  local differ = text ~= agreement.text(own.numbers) and text or ''
  return {in_force = all, written = table.concat(parts), differ = differ, slowest = slowest, is_slower = is_slower}
end
