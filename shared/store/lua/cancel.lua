#!lua flags=allow-oom
-- cancel: a waiting job ends at once; a running one is marked, and its worker told; if it does not hear, it reads
-- the mark with its next beat.
-- ARGV: tenant, id. Returns {'ok', record, place, turns} or {'finished' | 'gone' | 'missing'}.
local tenant, id = ARGV[1], ARGV[2]
local key = job_key(tenant, id)
local job = redis.call('HMGET', key, 'status', 'model', 'key_id', 'rank', 'cost', 'owner')
if not job[1] then return { absent(tenant, id) } end
if job[1] == 'queued' then
  dequeue(tenant, id, job[2], job[3], tonumber(job[4]), number(job[5], 0), false)
  end_job(tenant, id, 'canceled', { 'result', '{}' })
elseif job[1] == 'running' then
  redis.call('HSET', key, 'cancel', 'canceled')
  redis.call('PUBLISH', P .. 'stop:' .. job[6], member_of(tenant, id)) -- at once; the mark is for a worker that missed it
elseif job[1] ~= 'canceled' then
  return { 'finished' }
end
return { 'ok', redis.call('HGETALL', key), {}, {} }
