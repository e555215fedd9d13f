#!lua flags=allow-oom
-- list: a page of a tenant's jobs, newest first. ARGV[1]: JSON {tenant, where, before, limit, scan}.
-- Looks at no more than `scan` records a call, so that a filter which fits nothing cannot hold up the server.
-- Returns {next, {id, record, place}…}; next is the sequence number to go on below, or -1 at the end.
local a = cjson.decode(ARGV[1])
local index = P .. 'jobs:' .. a.tenant
local names = { 'status', 'mode', 'model', 'user_id' }

local function fits(job)
  for i, name in ipairs(names) do
    if a.where[name] and job[i] ~= a.where[name] then return false end
  end
  local created = tonumber(job[5])
  return not (a.where.created_after and created <= a.where.created_after)
    and not (a.where.created_before and created >= a.where.created_before)
end

local found, below, seen = { -1 }, a.before and '(' .. string.format('%.0f', a.before) or '+inf', 0
while true do
  local chunk = redis.call('ZREVRANGEBYSCORE', index, below, '-inf', 'WITHSCORES', 'LIMIT', 0, 100)
  if #chunk == 0 then found[1] = -1; return found end
  for i = 1, #chunk, 2 do
    local id, seq = chunk[i], chunk[i + 1]
    local key = job_key(a.tenant, id)
    local job = redis.call('HMGET', key, 'status', 'mode', 'model', 'user_id', 'created_at', 'rank', 'batch_id')
    if not job[1] then
      redis.call('ZREM', index, id) -- its retention is over
    elseif fits(job) then
      if #found > a.limit then return found end -- one more exists: the page's last seq is where to go on
      table.insert(found, { id, record_of(a.tenant, id, job[7]), place(a.tenant, id, job[3], tonumber(job[6])) })
    end
    below, seen = '(' .. seq, seen + 1
    found[1] = tonumber(seq)
    if seen >= a.scan then return found end
  end
  if #chunk < 200 then found[1] = -1; return found end
end
