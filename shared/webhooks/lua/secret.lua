-- secret: see to an endpoint's secret. ARGV: tenant, id, a fresh secret, overlap in ms. An overlap of -1 gives it only to the
-- built-in endpoint `default` where it has none yet; else the fresh one takes over, and the old one signs along so long.
-- Returns the endpoint's fields, or nil where there is none.
local tenant, id, fresh, overlap_ms = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local key = endpoint_key(tenant, id)
local now, old = now_ms(), redis.call('HGET', key, 'secret')
if not old then
  if id ~= 'default' then return nil end
  redis.call('HSET', key, 'secret', fresh, 'created_at', now, 'status', 'enabled', 'events', '[]')
elseif overlap_ms >= 0 and old ~= fresh then
  redis.call('HSET', key, 'secret', fresh, 'old_secret', old, 'old_until', now + overlap_ms)
end
return redis.call('HGETALL', key)
