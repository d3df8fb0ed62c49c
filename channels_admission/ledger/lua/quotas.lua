-- quotas: the slots that each class may fill the pool up to, and those that may be held under each key of a quota.

local quotas = {classes = shared.classes or {}, most = {}}

-- The most slots that a share of the limit is.
function quotas.ceiling(share)
  return math.floor(share * pool.limit + const.ROUNDING)
end

-- By the settings of this worker and those in force; an absent share of a class stands for those always admitted.
function quotas.load()
  for _, class in ipairs(quotas.classes) do
    local strictest = settings.in_force['share:' .. class.name]
    class.most = class.share and quotas.ceiling(class.share) or math.huge
    if strictest then class.most = math.min(class.most, quotas.ceiling(strictest)) end
  end
  for place, quota in ipairs(shared.quotas) do
    local most, share = settings.in_force['quota:' .. quota.name], settings.in_force['quota%:' .. quota.name]
    local own = quota.most or quotas.ceiling(quota.share)
    quotas.most[place] = math.min(own, most or own, share and quotas.ceiling(share) or own)
  end
  for _, ask in ipairs(shared.asks) do ask.class = quotas.classes[ask.class] end
end

-- The slots up to which each class may fill the pool.
function quotas.least()
  local least = pool.limit
  for _, class in ipairs(quotas.classes) do least = math.min(least, class.most) end
  return least
end

-- The slots that this worker holds, by class, as text.
function quotas.classes_text()
  local parts = {}
  for _, class in ipairs(quotas.classes) do
    if class.name ~= '' and class.held > 0 then parts[#parts + 1] = class.name .. '=' .. class.held end
  end
  return table.concat(parts, ',')
end
