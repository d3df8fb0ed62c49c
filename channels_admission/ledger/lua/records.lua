-- records: what is stored of each worker, in the fields const.RECORD, and a seal.

local records = {}

function records.is_sealed(name, text, sealed)
  return text .. codec.seal(name, text) == sealed
end

-- A number of at most `most`, which stands as nothing where it is 0.
function records.number(text, most)
  return text == '' and 0 or codec.digits(text or '', most)
end

-- When a lease ends by the pool's clock, by the texts of its record: when it was `seen`, and what was `left` then.
function records.ends_at(seen, left)
  local at, span = codec.digits(seen), codec.digits(left)
  return at and span and at + span
end

-- A worker's record by its fields; nil where it is not as the script has written it. A later release may have more fields
-- at the end.
function records.parse(name, sealed)
  if not sealed or #sealed > const.RECORD_BYTES then return nil end
  local text = codec.unsealed(sealed)
  if not records.is_sealed(name, text, sealed) then return nil end
  local parts = {string.match(text, const.RECORD_READ)}
  local rest = parts[const.PART.rest]
  local claimed = rest == '' and '0' or string.match((rest or '') .. '|', '^|[^|]*|(%d+)|')
  if not claimed then return nil end
  -- Made with its fields at once: a table that gets them one by one is copied at each doubling.
  local record = {
    held = codec.digits(parts[const.PART.held], const.MAX_LIMIT), seq = codec.digits(parts[const.PART.seq]),
    seen = codec.digits(parts[const.PART.seen]), ends = records.ends_at(parts[const.PART.seen], parts[const.PART.left]),
    draining = records.number(parts[const.PART.draining], 1),
    counters = parts[const.PART.counters], claimed = codec.digits(claimed),
    speed = records.number(parts[const.PART.speed], const.MOST_SPEED),
    reserve = records.number(parts[const.PART.reserve], const.MAX_LIMIT),
  }
  local is_whole = record.held and record.seq and record.ends and record.draining and record.claimed
    and record.speed and record.reserve
  return is_whole and record or nil
end

-- When the lease of the worker ends.
function records.ends(name, sealed)
  local record = records.parse(name, sealed)
  return record and record.ends
end

-- The same read without the seal; nil where that may be wrong or soon.
-- No altered end keeps a dead worker for longer than a lease: one that is later than this worker's own would be is
-- compared with its seal.
function records.lives(sealed, time)
  if not sealed or #sealed > const.RECORD_BYTES then return nil end
  local seen, left = string.match(sealed, '^%d+|%d+|(%d+)|(%-?%d+)|')
  local ends = seen and records.ends_at(seen, left)
  return ends and ends > time + 2 * report.heartbeat and ends <= time + report.lease and ends
end

function records.text(name, record)
  local parts = const.RECORD
  for place, field in ipairs(parts) do parts[place] = record[field] end
  local text = table.concat(parts, '|')
  return text .. codec.seal(name, text)
end

-- Whether a report was applied already, or a later one: each is applied once and in order.
function records.is_late(last)
  return report.seq <= last
end
