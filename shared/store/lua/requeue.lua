-- Back to the queue: a running job that its worker hands back or has lost goes to its old place in its tenant's line.
local function requeue(tenant, id)
  local key, member = job_key(tenant, id), member_of(tenant, id)
  local job = redis.call('HMGET', key, 'owner', 'model', 'key_id', 'rank', 'seq', 'cost')
  redis.call('HSET', key, 'status', 'queued')
  redis.call('HDEL', key, 'owner', 'token', 'started_at')
  leave_worker(job[2], job[1], member)
  charge(job[2], tenant, -number(job[6], 0))
  enqueue(tenant, id, job[2], job[3], tonumber(job[4]), tonumber(job[5]))
  batch_moved(tenant, id, 'running', 'queued')
  return job[2]
end

-- Back from a living worker. A job that was to be stopped anyway ends as that: who canceled it waits for no other worker.
-- Returns its model.
local function hand_back(tenant, id)
  local job = redis.call('HMGET', job_key(tenant, id), 'cancel', 'model')
  if not job[1] then return requeue(tenant, id) end
  end_job(tenant, id, job[1], { 'result', '{}' })
  return job[2]
end
