-- settings: those of the pool's workers, and the strictest of them all, which are in force (agreement.py has the rules).
--
-- '#settings' is UNTIL|FINGERPRINT|SETTINGS; for all settings that workers lately had: by the pool's clock they count
-- until a lease after the last report of a worker that has them.

local settings = {differ = ''}

function settings.parse_numbers(text)
  local numbers = {}
  for part in string.gmatch(text, '[^,]+') do
    local name, number = string.match(part, '^([^=]+)=(%d+%.?%d*)$')
    if name and #number <= 19 then numbers[name] = tonumber(number) end
  end
  return numbers
end

-- Let `numbers` be the strictest of themselves and `others`.
function settings.narrow(numbers, others)
  for name, number in pairs(others) do
    local pick = const.GREATEST[name] and math.max or math.min
    numbers[name] = pick(numbers[name] or number, number)
  end
  return numbers
end

function settings.text(numbers)
  local parts = {}
  for name, number in pairs(numbers) do
    local digits = string.format('%.9f', number)
    parts[#parts + 1] = name .. '=' .. string.gsub(string.gsub(digits, '0+$', ''), '%.$', '')
  end
  table.sort(parts)
  return table.concat(parts, ',')
end

function settings.entry(text, ends, mark)
  local numbers = settings.parse_numbers(text)
  local is_whole = numbers.limit and numbers.warn_at and numbers.lease and numbers.beat
  if #text > const.LONGEST_SETTINGS or not is_whole then return nil end
  return {text = text, ends = ends, mark = mark or codec.fingerprint(text), numbers = numbers}
end

-- What is stored; an entry that is none of ours is dropped.
function settings.parse(stored)
  local entries = {}
  if #stored > 2 * const.MOST_SETTINGS * const.LONGEST_SETTINGS then return entries end
  for part in string.gmatch(stored, '[^;]+') do
    local ends, mark, text = string.match(part, '^(%d+)|(%x+)|(.*)$')
    if ends and #ends <= 15 and codec.fingerprint(text) == mark then
      entries[#entries + 1] = settings.entry(text, tonumber(ends), mark)
    end
  end
  return entries
end

-- Read what is stored, before the pool's clock moves.
function settings.load(stored)
  settings.stored, settings.fastest = stored or '', report.heartbeat
  local own = report.fingerprint .. '|' .. report.settings
  local ends, rest = string.match(string.sub(settings.stored, 1, const.LONGEST_SETTINGS), '^(%d+)|(.*);$')
  if rest == own and #ends <= 15 and report.in_force == '' then
    -- All have the same, as nearly always: nothing need be compared.
    settings.is_alone, settings.ends, settings.slowest = true, tonumber(ends), report.heartbeat
    settings.in_force = {limit = report.limit, beat = report.heartbeat, warn_at = report.warn_at}
    return
  end
  settings.entries = settings.parse(settings.stored)
  for _, each in ipairs(settings.entries) do settings.fastest = math.min(settings.fastest, each.numbers.beat) end
end

-- The settings of others that are still about at this time of the pool's clock, and this worker's own, if stored.
function settings.others(time, is_lost)
  local kept, own = {}, nil
  for _, each in ipairs(settings.entries) do
    each.ends = math.min(each.ends, time + each.numbers.lease)
    if is_lost then each.ends = time + 1.5 * each.numbers.beat end
    if each.text == report.settings then own = each elseif each.ends > time then kept[#kept + 1] = each end
  end
  local before = is_lost and report.in_force ~= '' and settings.entry(report.in_force, time)
  if before then
    before.ends = time + math.min(1.5 * before.numbers.beat, before.numbers.lease)
    kept[#kept + 1] = before
  end
  return kept, own
end

-- Let the two that end first become one, the strictest of both, while there are too many.
function settings.merge(kept)
  while #kept > const.MOST_SETTINGS do
    table.sort(kept, function(a, b) return a.ends < b.ends end)
    local oldest = table.remove(kept, 1)
    local merged = settings.text(settings.narrow(settings.narrow({}, oldest.numbers), kept[1].numbers))
    kept[1] = settings.entry(merged, math.max(oldest.ends, kept[1].ends)) or kept[1]
  end
end

-- Agree at this time of the pool's clock on what is in force; a pool that has lost its data hears of what was.
function settings.agree(time, is_lost)
  if settings.is_alone then return end
  local kept, own = settings.others(time, is_lost)
  own = own or settings.entry(report.settings, time, report.fingerprint)
  settings.slowest = 0
  for _, each in ipairs(kept) do settings.slowest = math.max(settings.slowest, each.numbers.beat) end
  local was = own.ends
  settings.is_slower = #kept > 0 and own.numbers.beat > settings.slowest and was <= time
  settings.slowest = math.max(settings.slowest, own.numbers.beat)
  own.ends = time + own.numbers.lease
  if report.is_last then own.ends = math.min(was, time + 1.5 * settings.slowest) end
  if own.ends > time or #kept == 0 then kept[#kept + 1] = own end
  settings.merge(kept)
  local all, parts = {}, {}
  for i, each in ipairs(kept) do
    settings.narrow(all, each.numbers)
    parts[i] = string.format('%.0f|%s|%s;', each.ends, each.mark, each.text)
  end
  settings.in_force, settings.written = all, table.concat(parts)
  local text = settings.text(all)
  if text ~= settings.text(own.numbers) then settings.differ = text end
end

-- What is to be stored. While all have the same, that is renewed four times in a heartbeat at the most.
function settings.stored_text(time)
  if not settings.is_alone then return settings.written end
  local beat = report.heartbeat
  local ends = report.is_last and math.min(settings.ends, time + 1.5 * beat) or time + report.lease
  if not report.is_last and math.abs(ends - settings.ends) < beat / 4 then return settings.stored end
  return string.format('%.0f|%s|%s;', ends, report.fingerprint, report.settings)
end

-- This worker's own setting, or the strictest that is in force, whichever is stricter.
function settings.strict(name, own)
  local number = settings.in_force[name]
  return number and math.min(number, own) or own
end
