#!lua flags=allow-oom
-- log: a page of an endpoint's deliveries, newest first. ARGV[1]: JSON {tenant, endpoint, status?, before?, limit, scan}.
-- Returns {next, {id, fields}…}; next is the sequence number to go on below, or -1 at the end.
local a = cjson.decode(ARGV[1])
local log = deliveries_key(a.tenant, a.endpoint)
local found, below, seen = { -1 }, a.before and '(' .. string.format('%.0f', a.before) or '+inf', 0
while true do
  local chunk = redis.call('ZREVRANGEBYSCORE', log, below, '-inf', 'WITHSCORES', 'LIMIT', 0, 100)
  for i = 1, #chunk, 2 do
    local id, seq = chunk[i], chunk[i + 1]
    local fields = redis.call('HGETALL', delivery_key(member_of(a.tenant, id)))
    local status = redis.call('HGET', delivery_key(member_of(a.tenant, id)), 'status')
    if not status then
      redis.call('ZREM', log, id) -- its time is over
    elseif not a.status or a.status == status then
      if #found > a.limit then return found end
      table.insert(found, { id, fields })
    end
    below, seen = '(' .. seq, seen + 1
    found[1] = tonumber(seq)
    if seen >= a.scan then return found end
  end
  if #chunk < 200 then found[1] = -1; return found end
end
