-- control: replace what operators have set for a pool, unless it was replaced meanwhile.
--
-- KEYS  1 controls  hash: 'set' -> VERSION;NAME=VALUE/OVER,AT,BY;... (overrides.py tells more), and 'seal'
--       2 counts    hash: of which '#version' and '#clock' are read
-- ARGV  1 version that is to be replaced, 0 for none   2 the new entries, each after a ';'
--       3 expiry of unused keys (ms)
-- The value of a new drain is '+', and becomes VERSION:CLOCK of the pool: workers that registered up to this version are
-- meant by a drain of all, and the time of the pool's clock tells when all have heard of it.
-- Returns the new version, or 0 having changed nothing.
--
-- A version is the time by Redis in milliseconds, or one more than the version before where that is
-- later: what is set after a loss of data is newer than what the workers remember of before.

local key, expected, entries, expiry = KEYS[1], tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local set = redis.call('HGET', key, 'set')
local digits = set and #set <= const.CONTROLS_BYTES and string.match(set, '^%d+') or ''
local version = #digits <= 15 and tonumber(digits) or 0
if version and version > const.LATEST_VERSION then version = 0 end
if version ~= expected then return 0 end

local time = redis.call('TIME')
version = math.max(version + 1, time[1] * 1000 + math.floor(time[2] / 1000))
local parts = {}
for i, number in ipairs(redis.call('HMGET', KEYS[2], '#version', '#clock')) do
  parts[i] = number and #number <= 15 and string.find(number, '^%d+$') and number or '0'
end
entries = string.gsub(entries, '(;drain:[^=;]*=)%+', '%1' .. table.concat(parts, ':'))
redis.call('DEL', key)  -- and with it its expiry
set = string.format('%.0f', version) .. entries
redis.call('HSET', key, 'set', set, 'seal', string.sub(redis.sha1hex(set), 1, const.FINGERPRINT))
if entries == '' then redis.call('PEXPIRE', key, expiry) end
return version
