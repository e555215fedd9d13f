#!lua flags=allow-oom
-- beat: renew a worker's lease. ARGV[1]: JSON {id, info, model, model_info, slots, lease_ms, running: [[tenant, id, attempt]…]}.
-- Returns the running jobs that it must stop, as 'tenant:id': canceled, deleted, or no longer its own.
local a = cjson.decode(ARGV[1])
local now = now_ms()
redis.call('SET', P .. 'worker:' .. a.id, a.info, 'PX', a.lease_ms)
redis.call('ZADD', P .. 'workers', now + a.lease_ms, a.id)
redis.call('HSET', P .. 'models', a.model, a.model_info)

redis.call('ZREMRANGEBYSCORE', P .. 'workers', '-inf', now)
local slots = {}
for _, id in ipairs(redis.call('ZRANGE', P .. 'workers', 0, -1)) do
  local info = redis.call('GET', P .. 'worker:' .. id)
  if info then
    local other = cjson.decode(info)
    slots[other.model.name] = (slots[other.model.name] or 0) + other.slots
  end
end
redis.call('DEL', P .. 'capacity')
for model, count in pairs(slots) do redis.call('HSET', P .. 'capacity', model, count) end

local stop = {}
for _, job in ipairs(a.running) do
  local seen = redis.call('HMGET', job_key(job[1], job[2]), 'status', 'owner', 'attempt', 'cancel')
  if seen[1] ~= 'running' or seen[2] ~= a.id or tonumber(seen[3]) ~= job[3] or seen[4] then
    table.insert(stop, member(job[1], job[2]))
  end
end
return stop
