-- redeliver: a delivery that ended goes out again, with the whole schedule before it; one that waits, now. ARGV: tenant, endpoint, id.
-- Returns {'ok', fields} or {'missing' | 'gone' (what it told is not kept any more) | 'disabled'}.
local tenant, endpoint, id = ARGV[1], ARGV[2], ARGV[3]
local member = member_of(tenant, id)
local key = delivery_key(member)
local seen = redis.call('HMGET', key, 'endpoint', 'status', 'message', 'lane', 'lease')
if seen[1] ~= endpoint then return { 'missing' } end
local message = message_key(tenant, seen[3])
if redis.call('EXISTS', message) == 0 then return { 'gone' } end
if endpoint ~= 'default' and redis.call('HGET', endpoint_key(tenant, endpoint), 'status') ~= 'enabled' then return { 'disabled' } end
local now = now_ms()
if seen[2] ~= 'pending' then
  redis.call('PERSIST', key)
  redis.call('PERSIST', message)
  redis.call('HSET', key, 'status', 'pending', 'step', 0)
  redis.call('HDEL', key, 'delivered_at')
  redis.call('HINCRBY', message, 'open', 1)
  if seen[2] == 'failed' then redis.call('HINCRBY', message, 'failed', -1) end
  tell_job(tenant, seen[3])
end
if not seen[5] then -- a courier that sends it at this moment is not disturbed
  redis.call('HSET', key, 'next_at', now)
  set_due(seen[4], member, now)
end
wake_couriers()
return { 'ok', redis.call('HGETALL', key) }
