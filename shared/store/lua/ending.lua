-- Ends: what every end of a job does, whoever brings it about.

-- fields: flat list of the record's further fields.
local function end_job(tenant, id, status, fields)
  local key = job_key(tenant, id)
  local member = member_of(tenant, id)
  local now = now_ms()
  local job = redis.call('HMGET', key, 'model', 'owner', 'ttl_ms', 'tomb_ms', 'status', 'batch_id')
  local ttl_ms, tomb_ms = tonumber(job[3]), tonumber(job[4])
  redis.call('HSET', key, 'status', status, 'finished_at', now, unpack(fields))
  redis.call('HDEL', key, 'token', 'cancel')
  if not batch_keeps(tenant, job[6]) then
    redis.call('HSET', key, 'expires_at', now + ttl_ms)
    redis.call('PEXPIRE', key, ttl_ms)
    if tomb_ms > 0 then redis.call('SET', P .. 'tomb:' .. tenant .. ':' .. id, '', 'PX', ttl_ms + tomb_ms) end
  end
  leave_worker(job[1], job[2], member)
  redis.call('HINCRBY', P .. 'stats', 'ended:' .. status, 1)
  events_ended(tenant, id, status)
  outbox_job(tenant, id, 'job.' .. status)
  batch_moved(tenant, id, job[5], status)
  redis.call('PUBLISH', P .. 'ended', member)
end

-- Tokens that an attempt took, on the tenant's counter and in its usage of the day. `charged`: what the counter was
-- charged when the job was sent. `cached`: prompt tokens that were not computed; they are charged all the same, so that who
-- is served next does not depend on what a worker happens to remember.
local function account(tenant, model, key_id, weight, charged, prompt, completion, cached)
  charge(model, tenant, (prompt + 2 * completion) / weight - charged)
  local day = math.floor(redis.call('TIME')[1] / 86400)
  local usage = P .. 'usage:' .. tenant .. ':' .. day
  local name = key_id .. '|' .. model .. '|'
  redis.call('HINCRBY', usage, name .. 'jobs', 1)
  redis.call('HINCRBY', usage, name .. 'prompt_tokens', prompt)
  redis.call('HINCRBY', usage, name .. 'completion_tokens', completion)
  redis.call('HINCRBY', usage, name .. 'cached_tokens', cached)
  redis.call('EXPIRE', usage, 90 * 86400)
  local spent = P .. 'spent:' .. key_id .. ':' .. day
  redis.call('HINCRBY', spent, 'tokens', prompt + completion)
  redis.call('EXPIRE', spent, 2 * 86400)
end
