#!lua flags=allow-oom
-- release: hand a running job back to its place in the queue. ARGV: tenant, id, worker, attempt.
-- Returns {1, hints}, or {0} where this attempt does not own the job. The attempt's number is not used again, so that
-- nothing it still says can be taken for the next one's. No crash is counted.
local tenant, id = ARGV[1], ARGV[2]
local job = redis.call('HMGET', job_key(tenant, id), 'status', 'owner', 'attempt')
if job[1] ~= 'running' or job[2] ~= ARGV[3] or job[3] ~= ARGV[4] then return { 0 } end
local hints = {}
dispatch(hand_back(tenant, id), hints)
return { 1, hints }
