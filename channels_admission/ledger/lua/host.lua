-- host: the workers that share the reporter's host and process namespace, by their names without the host.

local host = {NEIGHBOURS_SHOWN = 256}

function host.place(name)
  return string.match(name, ':(.*)$') or name
end

function host.has(name)
  return redis.call('HGET', key.host, host.place(name))
end

function host.add(name)
  redis.call('HSET', key.host, host.place(name), report.born)
end

function host.remove(names)
  local places = {}
  for i, name in ipairs(names) do places[i] = host.place(name) end
  redis.call('HDEL', key.host, unpack(places))
end

-- Name, born, name, born, ... of the other workers that are counted; those that are not are dropped.
function host.neighbours()
  local place, names, uncounted, answer = host.place(report.worker), {}, {}, {}
  local address = string.sub(report.worker, 1, -1 - #place)
  local found = redis.call('HRANDFIELD', key.host, host.NEIGHBOURS_SHOWN, 'WITHVALUES')
  for i = 1, #found, 2 do names[#names + 1] = address .. found[i] end
  for i, record in ipairs(#names > 0 and redis.call('HMGET', key.counts, unpack(names)) or {}) do
    if not record then
      uncounted[#uncounted + 1] = found[2 * i - 1]
    elseif names[i] ~= report.worker then
      answer[#answer + 1], answer[#answer + 2] = names[i], found[2 * i]
    end
  end
  if #uncounted > 0 then redis.call('HDEL', key.host, unpack(uncounted)) end
  return answer
end
