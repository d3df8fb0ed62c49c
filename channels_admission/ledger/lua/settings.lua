-- settings: those of the pool's workers, and the strictest of them all, which are in force (agreement.py has the rules).
--
-- '#settings' is UNTIL|FINGERPRINT|SETTINGS; for all settings that workers lately had: by the pool's clock they count
-- until a lease after the last report of a worker that has them.

local settings = {differ = ''}

-- Read what is stored, before the pool's clock moves.
function settings.load(stored)
  settings.stored, settings.fastest = stored or '', report.heartbeat
  local own = report.fingerprint .. '|' .. report.settings
  local ends, rest = string.match(string.sub(settings.stored, 1, const.LONGEST_SETTINGS), '^(%d+)|(.*);$')
  if rest == own and #ends <= 15 and report.in_force == '' then
    -- All have the same, as nearly always: nothing need be compared.
    settings.is_alone, settings.ends, settings.slowest = true, tonumber(ends), report.heartbeat
    settings.in_force = {limit = report.limit, heartbeat = report.heartbeat, warn_at = report.warn_at}
    return
  end
  settings.entries = agreement.parse(settings.stored)
  for _, each in ipairs(settings.entries) do settings.fastest = math.min(settings.fastest, each.numbers.heartbeat) end
end

-- Agree at this time of the pool's clock on what is in force; a pool that has lost its data hears of what was.
function settings.agree(time, is_lost)
  if settings.is_alone then return end
  for name, value in pairs(agreement.reach(settings.entries, time, is_lost)) do settings[name] = value end
end

-- What is to be stored. While all have the same, that is renewed four times in a heartbeat at the most.
function settings.stored_text(time)
  if not settings.is_alone then return settings.written end
  local heartbeat = report.heartbeat
  local ends = report.is_last and math.min(settings.ends, time + const.SETTLING * heartbeat) or time + report.lease
  if not report.is_last and math.abs(ends - settings.ends) < heartbeat / 4 then return settings.stored end
  return string.format('%.0f|%s|%s;', ends, report.fingerprint, report.settings)
end
