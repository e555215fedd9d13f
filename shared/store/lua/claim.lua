#!lua flags=allow-oom
-- claim: a waiting job becomes this worker's. ARGV: tenant, id, worker, token.
-- Returns {record, turns}, or nil where the job does not wait. The same token again returns the same claim.
local tenant, id, worker, token = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local key = job_key(tenant, id)
local job = redis.call('HMGET', key, 'status', 'owner', 'token', 'model', 'key_id', 'user_id')
if job[1] == 'queued' then
  dequeue(tenant, id, job[4], job[5])
  redis.call('HINCRBY', key, 'attempt', 1)
  redis.call('HSET', key, 'status', 'running', 'owner', worker, 'token', token, 'started_at', now_ms())
elseif not (job[1] == 'running' and job[2] == worker and job[3] == token) then
  return nil
end
local turns = {}
if job[6] then turns = redis.call('LRANGE', P .. 'history:' .. tenant .. ':' .. job[6], 0, -1) end
return { redis.call('HGETALL', key), turns }
