-- trial: a test event to one endpoint. ARGV: tenant, endpoint, message, delivery, text. Returns {'ok', fields}, or {'missing' |
-- 'disabled'}. Again: the same.
local tenant, endpoint, message, delivery = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local at = redis.call('HMGET', endpoint_key(tenant, endpoint), 'status', 'url')
if not at[1] or not at[2] then return { 'missing' } end
if at[1] ~= 'enabled' then return { 'disabled' } end
local key = delivery_key(member_of(tenant, delivery))
if redis.call('EXISTS', key) == 0 then
  redis.call('HSET', message_key(tenant, message), 'type', 'webhook.test', 'at', now_ms(), 'payload', ARGV[5])
  deliver(tenant, message, 'webhook.test', endpoint, at[2], delivery)
  wake_couriers()
end
return { 'ok', redis.call('HGETALL', key) }
