#!lua flags=allow-oom
-- batch_delete: from now on there is no such batch; batch_step removes its jobs. ARGV: tenant, batch id.
-- Returns 1, or 0 where there was none.
local tenant, id = ARGV[1], ARGV[2]
if redis.call('HGET', batch_key(tenant, id), 'status') ~= 'open' then return 0 end
begin_removal(tenant, id)
redis.call('ZADD', P .. 'batches_due', now_ms() + STEP_GRACE_MS, member_of(tenant, id))
return 1
