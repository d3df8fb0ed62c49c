-- tickets: those that this report shows, and those that were redeemed before. Made only where some are shown.
--
-- The key has PLACE:NUMBER -> until when a copy may be shown in time. What is over is dropped by chance, faster than it
-- grows. Times are whole milliseconds by Redis.

local tickets = {SAMPLED = 8, AT_ONCE = 1000, due = {}, early = {}, spent = {}, of = {}, redeemed = {}}

-- Which of these names were redeemed, and a copy may still be in time.
function tickets.used(names)
  local used = {}
  for from = 1, #names, tickets.AT_ONCE do
    local some = {unpack(names, from, math.min(#names, from + tickets.AT_ONCE - 1))}
    for i, text in ipairs(redis.call('HMGET', key.tickets, unpack(some))) do
      local ends = text and codec.number(text)
      used[some[i]] = text and (not ends or ends > clock.now)
    end
  end
  return used
end

-- Sort the tickets, which come in the order of their places: those that are due, early, or spent: redeemed before, too
-- late, or shown twice.
function tickets.present()
  local names, seen = {}, {}
  for i, each in ipairs(report.shown) do
    each.name = string.format('%.0f:%.0f', each.place, each.number)
    names[i], tickets.of[each.handshake] = each.name, each
  end
  local used = tickets.used(names)
  for _, each in ipairs(report.shown) do
    local kind = tickets.early
    if seen[each.name] or used[each.name] or clock.now > each.due + line.GRACE + const.LINE.late then
      kind = tickets.spent
    elseif each.place <= clock.now + const.LINE.early then
      kind = tickets.due
      line.show(each.due, each.due > each.place)
    end
    kind[#kind + 1], each.kind, seen[each.name] = each.handshake, kind, true
  end
end

-- Of the early and the spent, those among the first `others` of all handshakes whose ticket is not due.
function tickets.among_first(others)
  local found, all, due = {}, {}, 0
  for handshake in pairs(tickets.of) do all[#all + 1] = handshake end
  table.sort(all)
  for _, handshake in ipairs(all) do
    if tickets.of[handshake].kind == tickets.due then
      due = due + 1
    elseif handshake - 1 - due < others then
      found[#found + 1] = handshake
    end
  end
  return found
end

-- Tell which handshakes with tickets are granted, and which are refused for a reason that time mends; how many of these
-- keep the time of their ticket.
function tickets.decide(granted, unserved)
  tickets.granted, tickets.unserved = {}, unserved
  for handshake, each in pairs(tickets.of) do
    if granted[handshake] then
      tickets.granted[#tickets.granted + 1] = handshake
      if each.kind ~= tickets.spent then tickets.redeem(each) end
    end
  end
  table.sort(tickets.granted)
  local keeping = 0
  for handshake in pairs(unserved) do
    if tickets.of[handshake].kind ~= tickets.spent then keeping = keeping + 1 end
  end
  return keeping
end

function tickets.redeem(ticket)
  if ticket.kind == tickets.early then line.show(ticket.place) end
  local ends = math.max(ticket.place, clock.now) + math.max(report.retry_high, const.LINE.again)
  local redeemed = tickets.redeemed
  redeemed[#redeemed + 1] = ticket.name
  redeemed[#redeemed + 1] = codec.whole(ends + line.GRACE + const.LINE.late)
end

-- In a pool that is not shared: due ones first, then the first of the others.
function tickets.grant(first, others)
  local granted, unserved = {}, {}
  for i = 1, first do granted[tickets.due[i]] = true end
  for _, handshake in ipairs(tickets.among_first(others)) do granted[handshake] = true end
  for handshake in pairs(tickets.of) do
    if not granted[handshake] then unserved[handshake] = true end
  end
  return tickets.decide(granted, unserved)
end

-- What is left of a ticket's time. One that will come later than that is expected then.
function tickets.left(ticket)
  local left = ticket.place - clock.now
  if left < report.retry_low then
    line.show(ticket.place)
    line.promise_again(clock.now + report.retry_low)
  end
  return left
end

-- The answers to the unserved: 'handshake=wait,', without a wait for those that are spent.
function tickets.tell(why, now)
  local due, parts = {}, {}
  for _, handshake in ipairs(tickets.due) do
    if tickets.unserved[handshake] then due[#due + 1] = handshake end
  end
  for i, wait in ipairs(rate.turns(#due, why, now)) do parts[i] = string.format('%d=%.17g,', due[i] - 1, wait) end
  for _, kind in ipairs({tickets.early, tickets.spent}) do
    for _, handshake in ipairs(kind) do
      if tickets.unserved[handshake] then
        local wait = kind == tickets.early and codec.whole(tickets.left(tickets.of[handshake])) or ''
        parts[#parts + 1] = string.format('%d=%s,', handshake - 1, wait)
      end
    end
  end
  tickets.turns = table.concat(parts)
end

function tickets.granted_text()
  local parts = {}
  for i, handshake in ipairs(tickets.granted) do parts[i] = handshake - 1 .. ',' end
  return table.concat(parts)
end

function tickets.write()
  local redeemed, most = tickets.redeemed, 2 * tickets.AT_ONCE
  if #redeemed == 0 then return end
  for from = 1, #redeemed, most do
    redis.call('HSET', key.tickets, unpack(redeemed, from, math.min(#redeemed, from + most - 1)))
  end
  local over = {}
  local found = redis.call('HRANDFIELD', key.tickets, math.min(#redeemed, most) + tickets.SAMPLED, 'WITHVALUES')
  for i = 1, #found, 2 do
    local ends = codec.number(found[i + 1])
    if not ends or ends <= clock.now then over[#over + 1] = found[i] end
  end
  if #over > 0 then redis.call('HDEL', key.tickets, unpack(over)) end
end
