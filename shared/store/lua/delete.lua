#!lua flags=allow-oom
-- delete: nothing of the job stays. ARGV: tenant, id. Returns 1, or 0 where there was none.
-- A running one disappears under its worker, which learns it with its next beat and stops; its finish is fenced.
local tenant, id = ARGV[1], ARGV[2]
local key, member = job_key(tenant, id), member_of(tenant, id)
local job = redis.call('HMGET', key, 'status', 'model', 'key_id', 'user_id', 'cache_key', 'rank', 'cost', 'owner', 'attempt')
outbox_deleted(tenant, id)
local tomb = redis.call('DEL', P .. 'tomb:' .. tenant .. ':' .. id)
if not job[1] then return tomb end
if job[1] == 'queued' then dequeue(tenant, id, job[2], job[3], tonumber(job[6]), number(job[7], 0), false) end
if job[4] then
  local turns = P .. 'history:' .. tenant .. ':' .. job[4]
  for _, turn in ipairs(redis.call('LRANGE', turns, 0, -1)) do
    if cjson.decode(turn).job_id == id then redis.call('LREM', turns, 1, turn) end
  end
end
if job[5] then redis.call('DEL', P .. 'cache:' .. tenant .. ':' .. job[5]) end
leave_worker(job[2], job[8], member)
events_deleted(tenant, id)
batch_moved(tenant, id, job[1], nil)
redis.call('ZREM', P .. 'dead', member)
if job[9] then
  -- A worker may still say the end of an attempt (also of one that it has lost): its number is not given to a new job of
  -- the same id.
  redis.call('SET', P .. 'attempts:' .. member, job[9], 'EX', 86400)
end
redis.call('DEL', key)
redis.call('ZREM', P .. 'jobs:' .. tenant, id)
redis.call('PUBLISH', P .. 'ended', member)
return 1
