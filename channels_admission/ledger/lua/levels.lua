-- levels: how near the pool is to its limit, and who is to tell of each change.
--
-- '#alert' is level|edge;edge; an edge is number,from,to,held,limit,worker that is to tell of it.
-- Each change is told by one worker: the one whose report brought it about, again where it has not seen the version of
-- that reply, or another where that one is gone. While the pool settles, its counts say nothing.

local levels = {told = ''}

-- A level is reached at its threshold, and left well below it.
function levels.of(held, limit, before)
  for place, threshold in ipairs({1, const.CRITICAL_AT, settings.in_force.warn_at}) do
    local level = 4 - place
    if level <= before then threshold = threshold - const.HYSTERESIS end
    if held >= threshold * limit then return level end
  end
  return 0
end

-- The changes that are still to be told, each with the version at which it was last told, and its teller.
function levels.untold()
  local kept = {}
  for part in string.gmatch(string.sub(pool.alert, 3), '[^;]+') do
    local number, edge, teller = string.match(part, '^(%d+),([0-3],[0-3],%d+,%d+),(.*)$')
    local is_ours = teller == report.worker
    if number and not (is_ours and report.version >= tonumber(number)) then
      is_ours = is_ours or teller == '' or leases.gone[teller] or not redis.call('HGET', key.counts, teller)
      kept[#kept + 1] = {is_ours and pool.version or number, edge, is_ours and levels.teller or teller}
    end
  end
  return kept
end

-- The level after this call, and what is to be stored of it.
function levels.change()
  levels.teller = pool.stays and report.worker or ''
  local level, kept = tonumber(string.match(pool.alert, '^([0-3])|')) or 0, levels.untold()
  if (clock.is_fresh or clock.has_lost) and report.level then level = report.level end
  if not clock.is_settling() then
    local before, held = level, pool.in_use()
    level = levels.of(held, pool.limit, before)
    if level ~= before then
      local edge = table.concat({before, level, held, pool.limit}, ',')
      kept[#kept + 1] = {pool.version, edge, levels.teller}
    end
  end
  local edges = ''
  for i = math.max(1, #kept - const.EDGES_KEPT + 1), #kept do
    local number, edge, teller = unpack(kept[i])
    edges = edges .. number .. ',' .. edge .. ',' .. teller .. ';'
    if teller == report.worker then levels.told = levels.told .. edge .. ';' end
  end
  levels.level = level
  return level .. '|' .. edges
end
