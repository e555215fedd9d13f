#!lua flags=allow-oom
-- release: hand a running job back to its place in the queue. ARGV: tenant, id, worker, attempt.
-- Returns 1, or 0 where this attempt does not own the job. The attempt's number is not used again, so that nothing it
-- still says can be taken for the next one's.
local tenant, id = ARGV[1], ARGV[2]
local key = job_key(tenant, id)
local job = redis.call('HMGET', key, 'status', 'owner', 'attempt', 'model', 'key_id', 'rank', 'seq')
if job[1] ~= 'running' or job[2] ~= ARGV[3] or job[3] ~= ARGV[4] then return 0 end
redis.call('HSET', key, 'status', 'queued')
redis.call('HDEL', key, 'owner', 'token', 'started_at')
enqueue(tenant, id, job[4], job[5], tonumber(job[6]), tonumber(job[7]))
return 1
