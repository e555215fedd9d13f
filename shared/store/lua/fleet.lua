#!lua flags=allow-oom
-- fleet: who is there. Returns {workers' announcements, models (flat), {model, waiting, …}, paused models,
-- {worker, running, …}, {model, ETA errors (flat), …}, couriers}.
local workers, running = {}, {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'workers', now_ms(), '+inf')) do
  local info = redis.call('GET', P .. 'worker:' .. id)
  if info then
    table.insert(workers, info)
    table.insert(running, id)
    table.insert(running, redis.call('SCARD', P .. 'owned:' .. id))
  end
end
local lengths, off = {}, {}
for _, model in ipairs(redis.call('SMEMBERS', P .. 'queues')) do
  local waiting = redis.call('ZCARD', P .. 'sent:' .. model) + number(redis.call('HGET', P .. 'staged', model), 0)
  for _, depth in ipairs(redis.call('HVALS', P .. 'depth:' .. model)) do waiting = waiting + tonumber(depth) end
  table.insert(lengths, model)
  table.insert(lengths, waiting)
  table.insert(off, model)
  table.insert(off, redis.call('HGETALL', P .. 'eta_error:' .. model))
end
return { workers, redis.call('HGETALL', P .. 'models'), lengths, redis.call('SMEMBERS', P .. 'paused'), running, off,
  redis.call('ZCOUNT', P .. 'couriers', now_ms(), '+inf') }
