-- control: replace what operators have set for a pool, unless it was replaced meanwhile.
--
-- KEYS  1 controls  hash: 'set' -> VERSION;NAME=VALUE/OVER,AT,BY;... (controls.py tells more)
-- ARGV  1 version that is to be replaced, 0 for none   2 the new entries, each after a ';'
--       3 expiry of unused keys (ms)
-- Returns the new version, or 0 having changed nothing.
--
-- A version is the time by Redis in milliseconds, or one more than the version before where that is
-- later: what is set after a loss of data is newer than what the workers remember of before.

local key, expected, entries, expiry = KEYS[1], tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local set = redis.call('HGET', key, 'set')
local digits = set and #set <= 8192 and string.match(set, '^%d+') or ''
local version = #digits <= 15 and tonumber(digits) or 0
if version ~= expected then return 0 end

local time = redis.call('TIME')
version = math.max(version + 1, time[1] * 1000 + math.floor(time[2] / 1000))
redis.call('DEL', key)  -- and with it its expiry
redis.call('HSET', key, 'set', string.format('%.0f', version) .. entries)
if entries == '' then redis.call('PEXPIRE', key, expiry) end
return version
