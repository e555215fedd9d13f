#!lua flags=allow-oom
-- report: how an attempt went. ARGV[1]: JSON {tenant, id, lease, what (delivered | again | failed | back), response_status?,
-- error?, retry_ms (for again), disable? (why), failing_ms (a failing endpoint is disabled after so long), keep_ms}.
-- `back`: it was not tried to the end; another courier takes it now. Returns 1, or 0 where the lease is not held any more.
local a = cjson.decode(ARGV[1])
local member = member_of(a.tenant, a.id)
local key = delivery_key(member)
local seen = redis.call('HMGET', key, 'lease', 'endpoint', 'lane')
if seen[1] ~= a.lease then return 0 end
local now = now_ms()
if a.what == 'back' then
  redis.call('HDEL', key, 'lease')
  redis.call('HINCRBY', key, 'attempts', -1)
  redis.call('HINCRBY', key, 'step', -1)
  redis.call('HSET', key, 'next_at', now)
  set_due(seen[3], member, now)
  wake_couriers()
  return 1
end
for _, name in ipairs({ 'response_status', 'error' }) do
  if a[name] then redis.call('HSET', key, name, a[name]) else redis.call('HDEL', key, name) end
end
local endpoint = endpoint_key(a.tenant, seen[2])
local known = redis.call('EXISTS', endpoint) == 1
if a.what == 'delivered' then
  redis.call('HDEL', endpoint, 'failing_since')
  settle(a.tenant, a.id, 'delivered', a.keep_ms)
  return 1
end
if known then redis.call('HSETNX', endpoint, 'failing_since', now) end
if a.what == 'again' then
  redis.call('HDEL', key, 'lease')
  redis.call('HSET', key, 'next_at', now + a.retry_ms)
  set_due(seen[3], member, now + a.retry_ms)
  return 1
end
settle(a.tenant, a.id, 'failed', a.keep_ms)
if known then
  local failing_ms = now - number(redis.call('HGET', endpoint, 'failing_since'), now)
  if a.disable then
    disable(a.tenant, seen[2], a.disable)
  elseif failing_ms > a.failing_ms then
    disable(a.tenant, seen[2], 'failing')
  end
end
return 1
