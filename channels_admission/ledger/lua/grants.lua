-- grants: how many slots this call gives, and why not more.

local grants = {slots = 0, refused = 0, why = '', verdicts = {}, claims = {}, ahead = 0, most_in_reserve = 0}

-- Slots that are free for newcomers.
function grants.room(others)
  local room = pool.limit - others - report.held
  if clock.is_settling() then room = math.min(room, report.allowance - report.held) end
  return overrides.is_paused and 0 or room
end

-- Slots that may be granted now, and what a handshake lacks for which there is none.
function grants.free(others)
  local room, tokens = math.max(0, grants.room(others)), rate.tokens(pool.is_empty(others))
  local lacking = 'full'
  if overrides.is_paused then lacking = 'paused'
  elseif tokens < room then lacking = 'rate'
  elseif clock.is_settling() then lacking = 'settling' end
  return math.min(room, tokens), lacking
end

-- In a pool that is not shared.
function grants.give(others)
  local wanted, free, lacking = report.wanted, grants.free(others)
  local first, rest = 0, math.min(wanted, free)
  if rate.has_line then
    local due = report.shown and #tickets.due or 0
    first, rest = line.allow(free, due, wanted - due, rate.spare(free))
    line.took(free, first, rest)
  end
  grants.slots = first + rest
  grants.refused = wanted - grants.slots
  if report.shown then grants.refused = grants.refused - tickets.grant(first, rest) end
  rate.spend(grants.slots, pool.is_empty(others))
  if grants.slots == wanted then return end
  if lacking == 'settling' and others + report.held + grants.slots >= pool.limit then lacking = 'full' end
  grants.why = lacking
end

-- Why an ask's claims cannot be granted, with so many granted before by the place of their key.
function grants.refusal(ask, granted)
  local parts, is_settling = shared.parts, clock.is_settling()
  for quota, place in ipairs(ask.claims) do
    if place > 0 then
      local most, more = quotas.most[quota], granted[place] or 0
      local count = claims.sum[claims.keys[place]] + more
      if count >= most and not holders.allow(quota, place, count) then
        return string.char(const.FIRST_QUOTA + quota - 1)
      end
      local part = parts > 0 and math.floor(most / parts) or 0
      if is_settling and claims.mine[place] + more >= part then return const.VERDICTS.settling end
    end
  end
  return nil
end

-- Why an ask cannot be granted now that `held` slots are held in the pool, and `own` of them by this worker; nil where
-- it can.
function grants.verdict(ask, slot, held, own, granted)
  if overrides.is_paused and slot == 1 then return const.VERDICTS.paused end
  if ask.class.most == math.huge then return nil end
  if not ask.unbounded and held + slot > ask.class.most then
    return held + slot > pool.limit and const.VERDICTS.full or const.VERDICTS.share
  end
  if slot == 1 and clock.is_settling() and own >= report.allowance then return const.VERDICTS.settling end
  return grants.refusal(ask, granted)
end

-- The order in which asks are decided: those whose ticket is due come first.
function grants.order()
  local places = {}
  for _, place in ipairs(report.shown and tickets.due or {}) do places[#places + 1] = place end
  local due = #places
  for place in ipairs(shared.asks) do
    if due == 0 or not tickets.of[place] or tickets.of[place].kind ~= tickets.due then places[#places + 1] = place end
  end
  return places, due
end

-- The verdicts on the asks, one after the other, where so many slots may go to tickets that are due, and so many to
-- others and what these left; how many went to tickets, and to all.
function grants.decide(others, first, rest, lacking)
  local verdicts, used, taken, given, granted, letters = {}, 0, 0, 0, {}, const.VERDICTS
  local places, due = grants.order()
  for i, place in ipairs(places) do
    local ask = shared.asks[place]
    local slot, own = ask.late and 0 or 1, report.held + given
    local verdict = attempts.verdicts[place] or grants.verdict(ask, slot, others + own, own, granted)
    if not verdict and slot == 1 and ask.class.most < math.huge then
      if used >= (i <= due and first or first + rest) then verdict = letters[lacking] else used = used + 1 end
      if not verdict and i <= due then taken = taken + 1 end
    end
    if not verdict then
      given = given + slot
      for _, each in ipairs(ask.claims) do
        if each > 0 then granted[each] = (granted[each] or 0) + 1 end
      end
    end
    verdicts[place] = verdict or letters.admitted
  end
  grants.verdicts, grants.slots, grants.claims = verdicts, given, granted
  return taken, used
end

-- Tell the tickets what has become of their handshakes; how many keep the time of theirs.
function grants.tell_tickets()
  local granted, unserved, letters = {}, {}, const.VERDICTS
  for place in pairs(tickets.of) do
    local verdict = grants.verdicts[place]
    granted[place] = verdict == letters.admitted or nil
    for _, why in ipairs({'full', 'share', 'rate', 'settling', 'paused'}) do
      if verdict == letters[why] then unserved[place] = true end
    end
  end
  return tickets.decide(granted, unserved)
end

-- In a pool that is shared by quotas or classes.
function grants.give_shared(others)
  local free, lacking = grants.free(others)
  local first, rest = 0, free
  if rate.has_line then
    local due = report.shown and #tickets.due or 0
    first, rest = line.allow(free, due, report.wanted - due, rate.spare(free))
  end
  local taken, used = grants.decide(others, first, rest, lacking)
  if rate.has_line then line.took(free, taken, used - taken) end
  rate.spend(used, pool.is_empty(others))
  local number, letters = {}, const.VERDICTS
  for _, letter in pairs(letters) do number[letter] = 0 end
  for i, ask in ipairs(shared.asks) do
    local verdict = grants.verdicts[i]
    if not ask.late then
      number[verdict] = (number[verdict] or 0) + 1
      if verdict == letters.admitted then ask.class.held = ask.class.held + 1 end
    end
  end
  local full = number[letters.full] + number[letters.share]
  local slow, settling, paused = number[letters.rate], number[letters.settling], number[letters.paused]
  grants.refused = full + slow + settling + paused  -- no retry time helps those whom a quota refuses
  if report.shown then grants.refused = grants.refused - grants.tell_tickets() end
  grants.why = paused > 0 and 'paused' or full > 0 and 'full' or slow > 0 and 'rate' or settling > 0 and 'settling' or ''
end

-- The asks that were granted.
function grants.granted()
  local granted = {}
  for i, ask in ipairs(shared.asks) do
    if grants.verdicts[i] == const.VERDICTS.admitted then granted[#granted + 1] = ask end
  end
  return granted
end

-- The most slots that this worker may have in reserve: a small part of those that are free for each class, and of the
-- tokens. None where others come first or may not be known yet, or where an empty pool is entered slowly.
function grants.reserve()
  local limit, own = report.shared and quotas.least() or pool.limit, report.reserve
  if clock.is_settling() or grants.why ~= '' then return 0 end
  if (rate.has_line and line.is_expecting()) or not pool.is_open_below(limit) then return 0 end
  if rate.speed > 0 and report.slow_start > 0 and pool.held == own then return 0 end
  local workers = math.max(1, pool.workers - pool.draining + layouts.workers)
  local most = math.floor((limit - pool.total + own) / (const.RESERVE_PARTS * workers))
  return math.max(0, math.min(most, rate.most_in_reserve(own, pool.reserve - own, workers)))
end

-- Give slots for the reserve, as far as this worker wants them.
function grants.give_ahead()
  local most = grants.reserve()
  local room = math.min(report.ahead, most - report.reserve, pool.limit - pool.total)
  grants.ahead, grants.most_in_reserve = math.max(0, room), most
  rate.take(grants.ahead)
  pool.count_ahead(grants.ahead)
end
