-- Batches: a hash of marks and counts for each, kept by the scripts that move a job.
--   status       admitting (chunks of it are still to come), open, or removing
--   size, total  jobs that were submitted; those that were not deleted since
--   queued, running, succeeded, failed, canceled, expired   jobs; queued also those that are in no line yet
--   ends         how many ends there were: the latest one's place in batch_ended
--   completed_at, expires_at, cancel_requested   set while it is so

local OVER = { succeeded = true, failed = true, canceled = true, expired = true }

local function batch_key(tenant, id) return P .. 'batch:' .. tenant .. ':' .. id end

local function batch_part(part, tenant, id) return P .. 'batch_' .. part .. ':' .. tenant .. ':' .. id end

-- None of its jobs waits or runs any more: its retention begins, and who waits for it is told.
local function batch_completed(tenant, batch_id)
  local key, member = batch_key(tenant, batch_id), member_of(tenant, batch_id)
  local now = now_ms()
  local expires_at = now + tonumber(redis.call('HGET', key, 'ttl_ms'))
  redis.call('HSET', key, 'completed_at', now, 'expires_at', expires_at)
  redis.call('ZADD', P .. 'batches_due', expires_at, member)
  redis.call('PUBLISH', P .. 'ended', member)
  outbox_batch(tenant, batch_id)
end

-- A job of a batch goes from one status to another; `to` is nil where it is deleted. The counts follow, and the order of
-- ends: a retry takes the job out of it, its next end is the newest.
local function batch_moved(tenant, id, from, to)
  local batch_id = redis.call('HGET', job_key(tenant, id), 'batch_id')
  if not batch_id then return end
  local key = batch_key(tenant, batch_id)
  if redis.call('HGET', key, 'status') ~= 'open' then return end
  redis.call('HINCRBY', key, from, -1)
  if OVER[from] then redis.call('ZREM', batch_part('ended', tenant, batch_id), id) end
  redis.call('HINCRBY', key, to or 'total', to and 1 or -1)
  if OVER[to] then redis.call('ZADD', batch_part('ended', tenant, batch_id), redis.call('HINCRBY', key, 'ends', 1), id) end
  local left = redis.call('HMGET', key, 'queued', 'running', 'completed_at')
  if tonumber(left[1]) + tonumber(left[2]) == 0 then
    if not left[3] then batch_completed(tenant, batch_id) end
  elseif left[3] then -- a retry opens it again
    redis.call('HDEL', key, 'completed_at', 'expires_at', 'cancel_requested', 'cancel_at')
    redis.call('ZREM', P .. 'batches_due', member_of(tenant, batch_id))
  end
end

-- Whether a batch is being canceled, so that none of its jobs may start.
local function batch_stops(tenant, batch_id)
  local batch = redis.call('HMGET', batch_key(tenant, batch_id), 'cancel_requested', 'completed_at')
  return batch[1] and not batch[2]
end

-- Whether an ended job of it may wait again: not while it is being canceled or removed.
local function batch_takes_back(tenant, batch_id)
  local status = redis.call('HGET', batch_key(tenant, batch_id), 'status')
  return not status or status == 'open' and not batch_stops(tenant, batch_id)
end

-- Whether the job's record lives as long as its batch, and not for a time of its own.
local function batch_keeps(tenant, batch_id)
  return batch_id and redis.call('EXISTS', batch_key(tenant, batch_id)) == 1
end

-- A record as it is shown: one that its batch keeps expires with it.
local function record_of(tenant, id, batch_id)
  local record = redis.call('HGETALL', job_key(tenant, id))
  local expires_at = batch_id and redis.call('HGET', batch_key(tenant, batch_id), 'expires_at')
  if expires_at then
    table.insert(record, 'expires_at')
    table.insert(record, expires_at)
  end
  return record
end

-- What is shown of a batch that was accepted and is not being removed, as a flat list; nil where there is none.
local function batch_head(tenant, id)
  local key = batch_key(tenant, id)
  local batch = redis.call('HMGET', key, 'status', 'expires_at')
  if batch[1] ~= 'open' or batch[2] and tonumber(batch[2]) <= now_ms() then return nil end
  return redis.call('HGETALL', key)
end

-- Milliseconds until about all of it has ended, as if nobody else waited.
local function batch_eta(tenant, id)
  local batch = redis.call('HMGET', batch_key(tenant, id), 'queued', 'running', 'models')
  local model = next(cjson.decode(batch[3]))
  local average = number(redis.call('HGET', P .. 'stats', 'ema_ms:' .. model), 1000)
  return math.floor(average * (tonumber(batch[1]) + tonumber(batch[2])) / math.max(1, capacity_of(model)))
end
