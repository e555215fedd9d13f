#!lua flags=allow-oom
-- remove: an endpoint and the log of its deliveries are gone; those that wait come up now, and end. ARGV: tenant, id.
-- Returns 1, or 0 where there is none.
local tenant, id = ARGV[1], ARGV[2]
if redis.call('ZREM', P .. 'endpoints:' .. tenant, id) == 0 then return 0 end
count_events(tenant, id, -1)
for _, delivery in ipairs(redis.call('ZRANGE', deliveries_key(tenant, id), -1000, -1)) do
  local member = member_of(tenant, delivery)
  local waits = redis.call('HMGET', delivery_key(member), 'status', 'lane')
  if waits[1] == 'pending' then set_due(waits[2], member, now_ms()) end
end
wake_couriers()
redis.call('DEL', endpoint_key(tenant, id), deliveries_key(tenant, id))
return 1
