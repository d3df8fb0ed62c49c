-- grants: how many slots this call gives, and why not more.

local grants = {slots = 0, refused = 0, why = '', verdicts = {}, claims = {}}

-- Slots that are free for newcomers.
function grants.room(others)
  local room = pool.limit - others - report.held
  if clock.is_settling() then room = math.min(room, report.allowance - report.held) end
  return overrides.is_paused and 0 or room
end

-- In a pool that is not shared.
function grants.give(others)
  local room = grants.room(others)
  local tokens = rate.tokens(report.wanted, room, others + report.held == 0)
  grants.slots = math.max(0, math.min(report.wanted, room, tokens))
  grants.refused = report.wanted - grants.slots
  rate.spend(grants.slots)
  if grants.refused == 0 then return end
  grants.why = 'full'
  if overrides.is_paused then grants.why = 'paused'
  elseif tokens < room then grants.why = 'rate'
  elseif clock.is_settling() and others + report.held + grants.slots < pool.limit then grants.why = 'settling' end
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

-- The verdicts on the asks, one after the other, with so many tokens; how many of these were used.
function grants.decide(others, tokens)
  local verdicts, used, given, granted = {}, 0, 0, {}
  for i, ask in ipairs(shared.asks) do
    local slot, own = ask.late and 0 or 1, report.held + given
    local verdict = attempts.verdicts[i] or grants.verdict(ask, slot, others + own, own, granted)
    if not verdict and slot == 1 and ask.class.most < math.huge then
      if used >= tokens then verdict = const.VERDICTS.rate else used = used + 1 end
    end
    if not verdict then
      given = given + slot
      for _, place in ipairs(ask.claims) do
        if place > 0 then granted[place] = (granted[place] or 0) + 1 end
      end
    end
    verdicts[i] = verdict or const.VERDICTS.admitted
  end
  grants.verdicts, grants.slots, grants.claims = verdicts, given, granted
  return used
end

-- In a pool that is shared by quotas or classes.
function grants.give_shared(others)
  local used = grants.decide(others, math.huge)
  local tokens = rate.tokens(report.wanted, used, others + report.held == 0)
  local most = math.max(0, math.min(report.wanted, used, tokens))
  rate.spend(most)
  if most < used then grants.decide(others, most) end
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
