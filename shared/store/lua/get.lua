#!lua flags=allow-oom
-- get: one record. ARGV: tenant, id. Returns {'ok', record, place, turns} or {'gone' | 'missing'}.
local tenant, id = ARGV[1], ARGV[2]
local job = redis.call('HMGET', job_key(tenant, id), 'status', 'model', 'user_id', 'rank', 'batch_id')
if not job[1] then return { absent(tenant, id) } end
local turns = {}
if job[1] == 'succeeded' and job[3] then
  turns = redis.call('LRANGE', P .. 'history:' .. tenant .. ':' .. job[3], 0, -1)
end
return { 'ok', record_of(tenant, id, job[5]), place(tenant, id, job[2], tonumber(job[4])), turns }
