-- save: make an endpoint, or change one. ARGV[1]: JSON {tenant, id, most (of a new one: endpoints a tenant may have), fields
-- (names and values; of a change only those that change)}. Returns its fields, or {'missing' | 'full'}. Again: the same.
local a = cjson.decode(ARGV[1])
local key = endpoint_key(a.tenant, a.id)
local there = redis.call('EXISTS', key) == 1
if not a.most and not there then return { 'missing' } end
if a.most and not there then
  if redis.call('ZCARD', P .. 'endpoints:' .. a.tenant) >= a.most then return { 'full' } end
  local now = now_ms()
  redis.call('HSET', key, 'created_at', now, 'status', 'enabled', 'events', '[]')
  redis.call('ZADD', P .. 'endpoints:' .. a.tenant, redis.call('INCR', P .. 'endpoint_seq'), a.id)
end
count_events(a.tenant, a.id, -1)
for name, value in pairs(a.fields) do redis.call('HSET', key, name, value) end
if a.fields.status == 'enabled' then redis.call('HDEL', key, 'disabled_reason', 'failing_since') end
if a.fields.status == 'disabled' then redis.call('HSET', key, 'disabled_reason', 'requested') end
count_events(a.tenant, a.id, 1)
return redis.call('HGETALL', key)
