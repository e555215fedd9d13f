#!lua flags=allow-oom
-- batch_cancel: from now on no job of the batch starts; batch_step brings them to their ends. ARGV: tenant, batch id.
-- Returns {'ok'}, also where it was canceled already, or {'finished' | 'missing'}.
local tenant, id = ARGV[1], ARGV[2]
local key = batch_key(tenant, id)
local batch = redis.call('HMGET', key, 'status', 'cancel_requested', 'completed_at')
if batch[1] ~= 'open' then return { 'missing' } end
if batch[2] then return { 'ok' } end
if batch[3] then return { 'finished' } end
local now = now_ms()
redis.call('HSET', key, 'cancel_requested', now)
redis.call('ZADD', P .. 'batches_due', now + STEP_GRACE_MS, member_of(tenant, id))
return { 'ok' }
