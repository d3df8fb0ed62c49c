-- records: what is stored of each worker, in the fields const.RECORD, and a seal.

local records = {}

function records.is_sealed(name, text, sealed)
  return text .. codec.seal(name, text) == sealed
end

-- A worker's record by its fields; nil where it is not as the script has written it.
function records.parse(name, sealed)
  if not sealed or #sealed > const.RECORD_BYTES then return nil end
  local text, record, place = codec.unsealed(sealed), {}, 0
  if not records.is_sealed(name, text, sealed) then return nil end
  for part in string.gmatch(text .. '|', '([^|]*)|') do
    place = place + 1
    record[const.RECORD[place] or ''] = part
  end
  record.held, record.seq = codec.number(record.held, const.MAX_LIMIT), codec.number(record.seq)
  record.seen, record.ends = codec.number(record.seen), codec.number(record.ends)
  record.started, record.draining = codec.number(record.started), codec.number(record.draining, 1)
  record.claimed = codec.number(record.claimed or '0')
  for _, field in ipairs({'held', 'seq', 'seen', 'ends', 'started', 'draining', 'claimed'}) do
    if not record[field] then return nil end
  end
  return record
end

-- When the lease of the worker ends, read without its seal; nil where that may be wrong or soon.
-- No altered end keeps a dead worker for longer than a lease: one that is later than this worker's own would be is
-- compared with its seal.
function records.lives(sealed, time)
  local ends = sealed and #sealed <= const.RECORD_BYTES and string.match(sealed, '^%d+|%d+|%d+|(%d+)|')
  ends = codec.number(ends)
  return ends and ends > time + 2 * report.heartbeat and ends <= time + report.lease and {ends = ends}
end

function records.text(name, record)
  local parts = {}
  for place, field in ipairs(const.RECORD) do parts[place] = record[field] end
  local text = table.concat(parts, '|')
  return text .. codec.seal(name, text)
end

-- Whether a report was applied already, or a later one: each is applied once and in order.
function records.is_late(last)
  return report.seq <= last
end
