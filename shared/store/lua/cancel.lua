#!lua flags=allow-oom
-- cancel: a waiting job ends at once; a running one is marked, and its worker told.
-- ARGV: tenant, id. Returns {'ok', record, place, turns} or {'finished' | 'gone' | 'missing'}.
local tenant, id = ARGV[1], ARGV[2]
local was = cancel_job(tenant, id)
if not was then return { absent(tenant, id) } end
if OVER[was] and was ~= 'canceled' then return { 'finished' } end
return { 'ok', record_of(tenant, id, redis.call('HGET', job_key(tenant, id), 'batch_id')), {}, {} }
