#!lua flags=allow-oom
-- fleet: who is there. Returns {workers' announcements, models (flat), {model, length, …}}.
local workers = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'workers', now_ms(), '+inf')) do
  local info = redis.call('GET', P .. 'worker:' .. id)
  if info then table.insert(workers, info) end
end
local lengths = {}
for _, model in ipairs(redis.call('SMEMBERS', P .. 'queues')) do
  table.insert(lengths, model)
  table.insert(lengths, redis.call('ZCARD', queue_key(model)))
end
return { workers, redis.call('HGETALL', P .. 'models'), lengths }
