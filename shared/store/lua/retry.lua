-- retry: an ended job that did not succeed waits again, under the same id. ARGV: tenant, id, 'dead' where only a
-- convicted one is meant.
-- Returns {'ok', record, place, {}, hints} or {'not_retryable' | 'gone' | 'missing'}.
local tenant, id = ARGV[1], ARGV[2]
local key, member = job_key(tenant, id), member_of(tenant, id)
local job = redis.call('HMGET', key, 'status', 'model', 'key_id', 'rank', 'queue_ms', 'batch_id')
if not job[1] then return { absent(tenant, id) } end
if ARGV[3] and not redis.call('ZSCORE', P .. 'dead', member) then return { 'missing' } end
if job[1] ~= 'failed' and job[1] ~= 'canceled' and job[1] ~= 'expired' then return { 'not_retryable' } end
if job[6] and not batch_takes_back(tenant, job[6]) then return { 'not_retryable' } end
local seq = redis.call('INCR', P .. 'seq')
redis.call('PERSIST', key)
redis.call('HSET', key, 'status', 'queued', 'seq', seq, 'waits_since', now_ms())
redis.call('HDEL', key, 'owner', 'token', 'started_at', 'finished_at', 'expires_at', 'result', 'error', 'cancel', 'crashes',
  'hook_status')
redis.call('DEL', P .. 'tomb:' .. tenant .. ':' .. id)
redis.call('ZREM', P .. 'dead', member)
redis.call('ZADD', P .. 'jobs:' .. tenant, seq, id)
events_retried(tenant, id)
batch_moved(tenant, id, job[1], 'queued')
enqueue(tenant, id, job[2], job[3], tonumber(job[4]), seq)
if job[5] then redis.call('ZADD', P .. 'deadlines', now_ms() + tonumber(job[5]), 'queue|' .. member) end
local hints = {}
dispatch(job[2], hints)
return { 'ok', redis.call('HGETALL', key), place(tenant, id, job[2], tonumber(job[4])), {}, hints }
