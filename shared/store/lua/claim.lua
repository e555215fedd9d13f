#!lua flags=allow-oom
-- claim: a waiting job becomes this worker's. ARGV: tenant, id, worker, token, log_ms (see events.lua).
-- Returns {record, turns}, or nil where the job does not wait, the worker has no lease, or the job is a suspect and this
-- worker has its share of them. The same token again returns the same claim.
local tenant, id, worker, token = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local key, member = job_key(tenant, id), member_of(tenant, id)
local job = redis.call('HMGET', key, 'status', 'owner', 'token', 'model', 'key_id', 'user_id', 'rank', 'cost', 'crashes',
  'run_ms', 'resent', 'batch_id', 'eta_ms', 'created_at')
local model = job[4]

-- Jobs that were aboard two crashes run few at a time on a worker, after three one at a time: the poison among them
-- takes ever fewer along, and is convicted.
local function has_room(crashes)
  if crashes < 2 then return true end
  local info = redis.call('GET', P .. 'worker:' .. worker)
  local aboard = redis.call('SMEMBERS', P .. 'suspects:' .. worker)
  for _, other in ipairs(aboard) do
    if number(redis.call('HGET', P .. 'job:' .. other, 'crashes'), 0) >= 3 then return false end
  end
  local limit = crashes >= 3 and 1 or math.max(1, math.floor(cjson.decode(info).slots / 8))
  return #aboard < limit
end

if job[1] == 'queued' then
  if job[12] and batch_stops(tenant, job[12]) then
    cancel_job(tenant, id)
    return nil
  end
  local crashes = number(job[9], 0)
  if redis.call('EXISTS', P .. 'worker:' .. worker) == 0 or not has_room(crashes) then return nil end
  local now = now_ms()
  local sent_at = redis.call('ZSCORE', P .. 'sent:' .. model, member)
  if not sent_at then
    charge(model, tenant, number(job[8], 0)) -- an old hint found it in its line
  elseif not job[11] then
    local latest = number(redis.call('HGET', P .. 'stats', 'claimed:' .. model), 0)
    redis.call('HSET', P .. 'stats', 'claimed:' .. model, math.max(latest, tonumber(sent_at)))
  end
  dequeue(tenant, id, model, job[5], tonumber(job[7]), 0, true)
  local attempt = redis.call('HINCRBY', key, 'attempt', 1)
  redis.call('HSET', key, 'status', 'running', 'owner', worker, 'token', token, 'started_at', now)
  redis.call('HDEL', key, 'resent', 'eta_ms')
  redis.call('SADD', P .. 'owned:' .. worker, member)
  redis.call('SADD', P .. 'running:' .. model, member)
  if crashes >= 2 then redis.call('SADD', P .. 'suspects:' .. worker, member) end
  if attempt == 1 and job[13] then check_eta(model, tonumber(job[13]), now - tonumber(job[14])) end
  if job[10] then redis.call('ZADD', P .. 'deadlines', now + tonumber(job[10]), 'run|' .. member) end
  events_claimed(tenant, id, attempt, ARGV[5])
  batch_moved(tenant, id, 'queued', 'running')
  outbox_job(tenant, id, 'job.started')
elseif not (job[1] == 'running' and job[2] == worker and job[3] == token) then
  return nil
end
local turns = {}
if job[6] then turns = redis.call('LRANGE', P .. 'history:' .. tenant .. ':' .. job[6], 0, -1) end
return { redis.call('HGETALL', key), turns }
