-- report: what one worker says of itself, as the fields that redis/argument.py names and explains.
--
-- Times are milliseconds, and rates are per millisecond. `key` holds the names of the pool's keys, and `shared` what a
-- worker says in a pool that is shared by quotas or classes.

local report, key = cmsgpack.unpack(ARGV[1]), const.KEY
local shared = report.shared or {}

for name, place in pairs(key) do key[name] = KEYS[place] end
report.rate, report.speed = (report.rate or 0) / 1000, report.speed or 0
report.reserve, report.ahead, report.unused = report.reserve or 0, report.ahead or 0, report.unused or 0
report.is_last = report.goodbye or report.retired
