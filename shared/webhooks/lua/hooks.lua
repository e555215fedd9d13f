-- Deliveries: what the operations on them share.

local function endpoint_key(tenant, id) return P .. 'endpoint:' .. tenant .. ':' .. id end

local function deliveries_key(tenant, endpoint) return P .. 'deliveries:' .. tenant .. ':' .. endpoint end

local function is_end(event)
  return event == 'job.succeeded' or event == 'job.failed' or event == 'job.canceled' or event == 'job.expired'
end

-- Write on the job's record how far the deliveries of its end are; not on one that was retried, expired or deleted.
local function tell_job(tenant, message)
  local told = redis.call('HMGET', message_key(tenant, message), 'type', 'job_id', 'seq', 'open', 'failed')
  if not told[1] or not is_end(told[1]) then return end
  local key = job_key(tenant, told[2])
  if redis.call('HGET', key, 'seq') ~= told[3] then return end
  local status = number(told[4], 0) > 0 and 'pending' or number(told[5], 0) > 0 and 'failed' or 'delivered'
  redis.call('HSET', key, 'hook_status', status)
end

-- A new delivery of a message, due now. Returns its id.
local function deliver(tenant, message, event, endpoint, url, id)
  local now, member = now_ms(), member_of(tenant, id)
  local lane = tenant .. '|' .. string.lower(string.match(url, '^%a+://([^/?#]+)'))
  local fields = { 'message', message, 'endpoint', endpoint, 'type', event, 'url', url, 'status', 'pending', 'attempts', 0,
    'step', 0, 'created_at', now, 'next_at', now, 'lane', lane }
  local about = redis.call('HMGET', message_key(tenant, message), 'job_id', 'batch_id')
  for i, name in ipairs({ 'job_id', 'batch_id' }) do
    if about[i] then table.insert(fields, name); table.insert(fields, about[i]) end
  end
  redis.call('HSET', delivery_key(member), unpack(fields))
  local log = deliveries_key(tenant, endpoint)
  redis.call('ZADD', log, redis.call('INCR', P .. 'delivery_seq'), id)
  for _, old in ipairs(redis.call('ZRANGE', log, 0, 2)) do -- what is over goes as new ones come
    if redis.call('EXISTS', delivery_key(member_of(tenant, old))) == 0 then redis.call('ZREM', log, old) end
  end
  local key = message_key(tenant, message)
  redis.call('HSET', key, 'deliveries', (redis.call('HGET', key, 'deliveries') or '') .. ' ' .. id)
  redis.call('HINCRBY', key, 'open', 1)
  set_due(lane, member, now)
  return id
end

-- The end of a delivery: status is delivered or failed. keep_ms: how long the log has it. What was told is kept no longer
-- than the job would be.
local function settle(tenant, id, status, keep_ms)
  local member = member_of(tenant, id)
  local key = delivery_key(member)
  local seen = redis.call('HMGET', key, 'message', 'lane', 'endpoint')
  redis.call('HSET', key, 'status', status)
  redis.call('HDEL', key, 'next_at', 'lease')
  redis.call('HINCRBY', P .. 'stats', 'webhooks:' .. status, 1)
  if status == 'delivered' then redis.call('HSET', key, 'delivered_at', now_ms()) end
  redis.call('PEXPIRE', key, keep_ms)
  redis.call('PEXPIRE', deliveries_key(tenant, seen[3]), keep_ms + MESSAGES_OF_A_JOB_MS)
  set_due(seen[2], member, nil)
  local message = message_key(tenant, seen[1])
  if redis.call('EXISTS', message) == 0 then return end
  if status == 'failed' then redis.call('HINCRBY', message, 'failed', 1) end
  if redis.call('HINCRBY', message, 'open', -1) <= 0 then
    local about = redis.call('HMGET', message, 'at', 'ttl_ms')
    local until_ms = now_ms() + keep_ms
    if about[2] then until_ms = math.min(until_ms, tonumber(about[1]) + tonumber(about[2])) end
    redis.call('PEXPIREAT', message, until_ms)
  end
  tell_job(tenant, seen[1])
end

-- Count an endpoint's events in, or out, of what its tenant's endpoints want.
local function count_events(tenant, id, by)
  local endpoint = redis.call('HMGET', endpoint_key(tenant, id), 'status', 'events')
  if endpoint[1] ~= 'enabled' then return end
  for _, event in ipairs(cjson.decode(endpoint[2])) do redis.call('HINCRBY', P .. 'hook_events:' .. tenant, event, by) end
end

local function disable(tenant, id, reason)
  local key = endpoint_key(tenant, id)
  if id == 'default' or redis.call('HGET', key, 'status') ~= 'enabled' then return end
  count_events(tenant, id, -1)
  redis.call('HSET', key, 'status', 'disabled', 'disabled_reason', reason)
end
