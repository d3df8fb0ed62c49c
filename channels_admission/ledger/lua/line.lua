-- line: the retry times that refused clients were promised, and what is kept for those that return (core/herd/line.py
-- has the rules). Made only where there is a line, or somebody is refused.
--
-- '#line' is '' for none, or credit|window|given|left|left before|sums of promised and shown, of both kinds|first bucket
-- that is near and wide|buckets of the first kind, of those again, and wide ones. Times are whole milliseconds.

local line = {
  PATTERN = '^' .. string.rep('([^|]*)|', 13) .. '([^|]*)$',
  WIDTH = const.LINE.width, WIDE = const.LINE.wide, GRACE = const.LINE.grace,
}

function line.none()
  local prior, assumed = const.LINE.prior, const.LINE.assumed
  return {promised = {}, shown = {}, sum_promised = prior, sum_shown = assumed * prior, share = assumed}
end

-- `near` is the first wide bucket that is not near.
function line.begin()
  line.first, line.again, line.wide, line.near = line.none(), line.none(), {}, 0
  line.credit, line.window, line.given, line.left, line.left_before = 0, clock.now, 0, math.huge, 0
end

function line.is_empty()
  return not (next(line.first.promised) or next(line.again.promised) or next(line.wide))
end

-- Buckets from `first` on, each with what was promised and shown.
function line.parse_near(kind, first, text)
  local bucket = first
  for promised, shown in string.gmatch(text, '(%d*):?(%d*),') do
    if shown ~= '' then kind.promised[bucket], kind.shown[bucket] = codec.digits(promised), codec.digits(shown) end
    bucket = bucket + 1
  end
end

function line.parse_wide(first, text)
  local bucket = first
  for part in string.gmatch(text, '(%d*),') do
    if part ~= '' then line.wide[bucket] = codec.digits(part) end
    bucket = bucket + 1
  end
end

-- Go on from what is stored, and let time pass. What is not as it was written is no line.
function line.load(text)
  line.begin()
  local parts = {string.match(text, line.PATTERN)}
  local numbers = {}
  for i = 1, 11 do numbers[i] = parts[i] == '' and math.huge or codec.decimal(parts[i]) end
  if #numbers == 11 and numbers[6] > 0 and numbers[8] > 0 then
    line.credit, line.window, line.given, line.left, line.left_before = unpack(numbers)
    line.first.sum_promised, line.first.sum_shown, line.again.sum_promised, line.again.sum_shown = unpack(numbers, 6)
    line.near = numbers[11]
    line.parse_near(line.first, numbers[10], parts[12])
    line.parse_near(line.again, numbers[10], parts[13])
    line.parse_wide(numbers[11], parts[14])
  end
  line.advance()
end

function line.near_text(kind, first, last)
  local parts = {}
  for bucket = first, last do
    local promised = kind.promised[bucket]
    parts[bucket - first + 1] = promised and string.format('%.0f:%.0f,', promised, kind.shown[bucket] or 0) or ','
  end
  return table.concat(parts)
end

function line.wide_text()
  local parts, last = {}, line.near - 1
  for bucket in pairs(line.wide) do last = math.max(last, bucket) end
  for bucket = line.near, last do
    parts[#parts + 1] = line.wide[bucket] and codec.whole(line.wide[bucket]) .. ',' or ','
  end
  return table.concat(parts)
end

function line.text()
  if line.is_empty() then return '' end
  local first, last = math.huge, 0
  for _, kind in ipairs({line.first, line.again}) do
    for bucket in pairs(kind.promised) do first, last = math.min(first, bucket), math.max(last, bucket) end
  end
  if last == 0 then first = 0 end
  local parts = {
    line.credit, line.window, line.given, line.left, line.left_before, line.first.sum_promised, line.first.sum_shown,
    line.again.sum_promised, line.again.sum_shown, first, line.near,
  }
  for i, number in ipairs(parts) do parts[i] = number < math.huge and string.format('%.17g', number) or '' end
  parts[12], parts[13] = line.near_text(line.first, first, last), line.near_text(line.again, first, last)
  parts[14] = line.wide_text()
  return table.concat(parts, '|')
end

-- By what the schedule's steps are multiplied.
function line.overbooked()
  return math.max(const.LINE.least, line.first.share)
end

-- Tickets that are expected from now on.
function line.ahead()
  local sums, from = {0, 0, 0}, math.floor(clock.now / line.WIDTH)
  for i, kind in ipairs({line.first, line.again}) do
    for bucket, number in pairs(kind.promised) do
      if bucket >= from then sums[i] = sums[i] + number end
    end
  end
  for _, number in pairs(line.wide) do sums[3] = sums[3] + number end
  local share = line.first.share
  return share * sums[1] + line.again.share * sums[2] + share * sums[3]
end

-- Whether a ticket is likely to be shown.
function line.is_expecting()
  return math.max(line.ahead(), line.expected()) >= const.LINE.likely
end

-- Learn the share from what was due a little before, and forget the buckets whose grace is over.
function line.learn(kind)
  local due, known, fading = {}, clock.now - const.LINE.soon, const.LINE.fading
  for bucket in pairs(kind.promised) do
    if bucket * line.WIDTH < known then due[#due + 1] = bucket end
  end
  table.sort(due)
  local promised, shown, over = kind.sum_promised, kind.sum_shown, math.floor((clock.now - line.GRACE) / line.WIDTH)
  for _, bucket in ipairs(due) do
    local number = kind.promised[bucket] * math.min(1, (known - bucket * line.WIDTH) / line.WIDTH)
    promised = fading * promised + number
    shown = fading * shown + math.min(number, kind.shown[bucket] or 0)
    if bucket < over then
      kind.sum_promised, kind.sum_shown = promised, shown
      kind.promised[bucket], kind.shown[bucket] = nil, nil
    end
  end
  kind.share = shown / promised
end

function line.advance()
  local near = math.floor(clock.now / line.WIDE) + 2
  if line.is_empty() or near < line.near - 1 then line.begin() end
  line.near = math.max(line.near, near)
  for bucket, number in pairs(line.wide) do
    if bucket < line.near then
      line.divide(bucket, number)
      line.wide[bucket] = nil
    end
  end
  line.learn(line.first)
  line.learn(line.again)
  if clock.now - line.window >= line.GRACE then
    line.window, line.given = clock.now, 0
    if line.left < math.huge then line.left_before, line.left = line.left, math.huge end
  end
  if line.is_empty() then
    line.begin()
    line.near = near
  end
end

function line.add(kind, bucket, number)
  if number > 0 then kind.promised[bucket] = (kind.promised[bucket] or 0) + number end
end

-- Spread a wide bucket evenly over others.
function line.divide(wide, number)
  local parts = line.WIDE / line.WIDTH
  for part = 0, parts - 1 do
    local here = math.floor(number * (part + 1) / parts) - math.floor(number * part / parts)
    line.add(line.first, wide * parts + part, here)
  end
end

-- The end of a time's bucket.
function line.edge(time)
  local width = time < line.near * line.WIDE and line.WIDTH or line.WIDE
  return (math.floor(time / width) + 1) * width
end

function line.promise_before(edge, number, kind)
  if edge <= line.near * line.WIDE then
    line.add(kind, edge / line.WIDTH - 1, number)
  elseif number > 0 then
    local bucket = edge / line.WIDE - 1
    line.wide[bucket] = (line.wide[bucket] or 0) + number
  end
end

-- Promise a time to a ticket that was due before and found nothing free.
function line.promise_again(time)
  local edge = line.edge(math.floor(time + 0.5))
  if edge <= clock.now + const.LINE.longest then line.promise_before(edge, 1, line.again) end
end

-- Promise `number` times from `first` on, of which `before` says how many are earlier than a time; all from now.
function line.promise_series(number, first, before)
  local done, edge = 0, line.edge(clock.now + math.floor(first + 0.5))
  while done < number and edge <= clock.now + const.LINE.longest do
    local so_far = math.max(done, math.min(number, before(edge - clock.now)))
    line.promise_before(edge, so_far - done, line.first)
    done, edge = so_far, line.edge(edge)
  end
end

function line.show_of(kind, bucket)
  local shown = kind.shown[bucket] or 0
  if shown >= (kind.promised[bucket] or 0) then return false end
  kind.shown[bucket] = shown + 1
  return true
end

function line.show(due, is_again)
  local bucket = math.floor(due / line.WIDTH)
  if not (is_again and line.show_of(line.again, bucket)) then line.show_of(line.first, bucket) end
end

-- Tickets of a kind that are expected between two times, and have not been shown.
function line.expected_of(kind, begins, ends)
  local sum, share = 0, kind.share
  for bucket = math.floor(begins / line.WIDTH), math.floor(ends / line.WIDTH) do
    local promised, starts = kind.promised[bucket], bucket * line.WIDTH
    if promised then
      local part = math.max(0, math.min(ends, starts + line.WIDTH) - math.max(begins, starts)) / line.WIDTH
      sum = sum + math.max(0, share * promised * part - (kind.shown[bucket] or 0))
    end
  end
  return sum
end

function line.expected()
  local now, grace = clock.now, line.GRACE
  return line.expected_of(line.first, now - grace, now) + line.expected_of(line.again, now - grace, now + grace)
end

-- How many of the free slots, of which some are `spare`, may go to so many tickets that are due, and to others.
function line.allow(free, due, others, spare)
  if due == 0 and line.is_empty() then return 0, math.min(others, free) end
  local first = math.min(others, free, math.floor(line.credit + const.ROUNDING))
  local tickets = math.min(due, free - first)
  local rest = free - first - tickets
  local kept = math.floor(line.expected() + 0.5)
  local unclaimed = math.min(rest, line.left, line.left_before)
  local least = math.floor(const.LINE.least * (free + line.given) + const.ROUNDING) - line.given - first
  return tickets, first + math.max(0, math.min(others - first, rest, math.max(rest - kept, least, unclaimed, spare - first)))
end

-- So many went to them.
function line.took(free, tickets, others)
  if tickets == 0 and line.is_empty() then return end
  local least = const.LINE.least
  line.credit = math.max(0, math.min(line.credit + tickets * least / (1 - least), math.max(1, least * free)) - others)
  line.given = line.given + others
  line.left = math.min(line.left, free - tickets - others)
end
