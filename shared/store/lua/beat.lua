#!lua flags=allow-oom
-- beat: renew a worker's lease. ARGV[1]: JSON {id, info, model, model_info, lease_ms, running: [[tenant, id, attempt]…]}.
-- Returns {drain, {member, why}…}: 1 where it is to drain, and the running jobs that it must stop; why is canceled, expired,
-- or lost (deleted, or not its own any more).
local a = cjson.decode(ARGV[1])
local now = now_ms()
mind_outages(now, a.lease_ms)
redis.call('SET', P .. 'worker:' .. a.id, a.info, 'PX', a.lease_ms)
redis.call('ZADD', P .. 'workers', now + a.lease_ms, a.id)
redis.call('HSET', P .. 'models', a.model, a.model_info)
count_slots(now)

local stop = { redis.call('EXISTS', P .. 'drain:' .. a.id) }
for _, job in ipairs(a.running) do
  local seen = redis.call('HMGET', job_key(job[1], job[2]), 'status', 'owner', 'attempt', 'cancel')
  if seen[1] ~= 'running' or seen[2] ~= a.id or tonumber(seen[3]) ~= job[3] then
    table.insert(stop, { member_of(job[1], job[2]), 'lost' })
  elseif seen[4] then
    table.insert(stop, { member_of(job[1], job[2]), seen[4] })
  end
end
return stop
