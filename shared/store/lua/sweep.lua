#!lua flags=allow-oom
-- sweep: take out of lists what Redis let expire by itself: members of jobs:T whose record is gone, and dead letters. Bounded;
-- any number of processes may do it at any time.
-- ARGV: tenant and sequence number where the step before ended ('' and 0 at first), most (members to look at).
-- Returns {tenant, sequence} to go on with, or {} at the end of the round; and how many were taken out.
local at, above, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local gone = 0

local function drop(list, member, key)
  if redis.call('EXISTS', key) == 1 then return end
  gone = gone + redis.call('ZREM', list, member)
end

if at == '' then
  for _, member in ipairs(redis.call('ZRANGE', P .. 'dead', 0, most - 1)) do drop(P .. 'dead', member, P .. 'job:' .. member) end
end
local tenants = redis.call('SMEMBERS', P .. 'tenants')
table.sort(tenants)
for _, tenant in ipairs(tenants) do
  if tenant >= at then
    if tenant > at then above = 0 end
    local list = P .. 'jobs:' .. tenant
    local from = '(' .. string.format('%.0f', above)
    local chunk = redis.call('ZRANGEBYSCORE', list, from, '+inf', 'WITHSCORES', 'LIMIT', 0, most)
    for i = 1, #chunk, 2 do drop(list, chunk[i], job_key(tenant, chunk[i])) end
    most = most - #chunk / 2
    if #chunk == 0 and above == 0 then redis.call('SREM', P .. 'tenants', tenant) end
    if most <= 0 then return { { tenant, chunk[#chunk] }, gone } end
  end
end
return { {}, gone }
