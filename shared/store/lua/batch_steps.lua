-- Batches in steps: what a batch of thousands needs is done some hundreds of jobs at a time, by the API, and by the
-- reconciler where the API died over it. Both may, since a step does what is left.
local ENROLL, CANCEL, REMOVE = 500, 100, 200 -- jobs a step: about 10 ms of the server
local STEP_GRACE_MS = 1000 -- so long the reconciler leaves a batch to who made the last step

-- The batch as its jobs' records need it.
local function terms_of(tenant, id)
  local batch = redis.call('HMGET', batch_key(tenant, id), 'key_id', 'tomb_ms', 'created_at', 'request_id', 'weight', 'seq',
    'traceparent')
  return {
    tenant = tenant, batch_id = id, key_id = batch[1], tomb_ms = batch[2], created_at = tonumber(batch[3]),
    request_id = batch[4] or nil, weight = batch[5] and tonumber(batch[5]) or nil, seq = tonumber(batch[6]),
    traceparent = batch[7] or nil }
end

-- What a batch reserved in the key's cap and in the queue is given back: its jobs count for themselves now, or not at all.
local function unreserve(key_id, models, count)
  for model, jobs in pairs(models) do redis.call('HINCRBY', P .. 'staged', model, -jobs) end
  if count > 0 and redis.call('HINCRBY', P .. 'waiting', key_id, -count) <= 0 then redis.call('HDEL', P .. 'waiting', key_id) end
end

-- Take the next staged jobs, calling `each(job, seq)`. Returns how many there were, and how many by model.
local function unstage(tenant, id, most, terms, each)
  local staged = redis.call('LPOP', batch_part('staged', tenant, id), 2 * most) or {}
  local ids, models = {}, {}
  for i = 1, #staged, 2 do
    local job = cjson.decode(staged[i])
    job.spec = staged[i + 1]
    models[job.model] = (models[job.model] or 0) + 1
    table.insert(ids, job.id)
    each(job, terms.seq + job.batch_index)
  end
  if #ids > 0 then unreserve(terms.key_id, models, #ids) end
  return ids, models
end

local function has_staged(tenant, id) return redis.call('EXISTS', batch_part('staged', tenant, id)) == 1 end

-- The next staged jobs get their records and go into their lines. Returns how many.
local function enroll(tenant, id, hints)
  local terms = terms_of(tenant, id)
  local ids, models = unstage(tenant, id, ENROLL, terms, function(job, seq)
    write_job(terms, job, seq)
    line_up(terms, job, seq)
  end)
  if #ids > 0 then redis.call('RPUSH', batch_part('jobs', tenant, id), unpack(ids)) end
  for model in pairs(models) do dispatch(model, hints) end
  return #ids
end

-- The next jobs are canceled: first those that have records, then those that are staged, which get one that says so. When
-- none is left, the room that they leave is for others. Returns how many.
local function cancel_step(tenant, id, hints)
  local key, jobs = batch_key(tenant, id), batch_part('jobs', tenant, id)
  local from = number(redis.call('HGET', key, 'cancel_at'), 0)
  local ids = redis.call('LRANGE', jobs, from, from + CANCEL - 1)
  for _, job_id in ipairs(ids) do cancel_job(tenant, job_id) end
  local more = {}
  if #ids < CANCEL then
    local terms = terms_of(tenant, id)
    more = unstage(tenant, id, CANCEL - #ids, terms, function(job, seq)
      write_job(terms, job, seq)
      end_job(tenant, job.id, 'canceled', { 'result', '{}' })
    end)
    if #more > 0 then redis.call('RPUSH', jobs, unpack(more)) end
  end
  local at = from + #ids + #more
  redis.call('HSET', key, 'cancel_at', at)
  if at == redis.call('LLEN', jobs) and not has_staged(tenant, id) then
    for model in pairs(cjson.decode(redis.call('HGET', key, 'models'))) do dispatch(model, hints) end
  end
  return #ids + #more
end

-- The next jobs are gone: as if each was deleted, or, where the batch's retention is over, with what an expired job
-- leaves. Then the batch itself. Returns how many.
local function remove_step(tenant, id)
  local key, jobs = batch_key(tenant, id), batch_part('jobs', tenant, id)
  local expired = redis.call('HGET', key, 'expired_at')
  local terms = terms_of(tenant, id)
  local staged = unstage(tenant, id, REMOVE, terms, function() end)
  local ids = redis.call('LPOP', jobs, REMOVE) or {}
  for _, job_id in ipairs(ids) do
    if expired and redis.call('DEL', job_key(tenant, job_id)) == 1 then
      events_deleted(tenant, job_id)
      redis.call('ZREM', P .. 'jobs:' .. tenant, job_id)
      local tomb_ms = tonumber(terms.tomb_ms)
      if tomb_ms > 0 then redis.call('SET', P .. 'tomb:' .. tenant .. ':' .. job_id, '', 'PX', tomb_ms) end
    else
      remove_job(tenant, job_id)
    end
  end
  if redis.call('EXISTS', jobs) == 0 and not has_staged(tenant, id) then
    redis.call('DEL', key, batch_part('ended', tenant, id))
    redis.call('ZREM', P .. 'batches_due', member_of(tenant, id))
  end
  return #staged + #ids
end

-- A batch whose last chunk did not come in time was never accepted: none of its jobs has a record.
local function roll_back(tenant, id)
  local key = batch_key(tenant, id)
  local batch = redis.call('HMGET', key, 'key_id', 'models', 'size', 'idem')
  unreserve(batch[1], cjson.decode(batch[2]), tonumber(batch[3]))
  if batch[4] then redis.call('DEL', P .. 'idem:' .. batch[4]) end
  redis.call('UNLINK', key, batch_part('staged', tenant, id))
  redis.call('ZREM', P .. 'batches_due', member_of(tenant, id))
end

local function begin_removal(tenant, id)
  redis.call('HSET', batch_key(tenant, id), 'status', 'removing')
  redis.call('ZREM', P .. 'batches:' .. tenant, id)
end

-- Whether a step is left to make.
local function unfinished(tenant, id)
  local batch = redis.call('HMGET', batch_key(tenant, id), 'status', 'cancel_requested', 'cancel_at')
  if batch[1] == 'removing' then return true end
  if batch[1] ~= 'open' then return false end
  if has_staged(tenant, id) then return true end
  return batch[2] and number(batch[3], 0) < redis.call('LLEN', batch_part('jobs', tenant, id))
end

-- The next step of a batch that was accepted. Returns how many jobs it was about.
local function batch_step(tenant, id, hints)
  local batch = redis.call('HMGET', batch_key(tenant, id), 'status', 'cancel_requested')
  local count
  if batch[1] == 'removing' then
    count = remove_step(tenant, id)
  elseif batch[2] then
    count = cancel_step(tenant, id, hints)
  else
    count = enroll(tenant, id, hints)
  end
  if unfinished(tenant, id) then
    redis.call('ZADD', P .. 'batches_due', now_ms() + STEP_GRACE_MS, member_of(tenant, id))
  else
    local expires_at = redis.call('HGET', batch_key(tenant, id), 'expires_at')
    if expires_at then
      redis.call('ZADD', P .. 'batches_due', expires_at, member_of(tenant, id))
    else
      redis.call('ZREM', P .. 'batches_due', member_of(tenant, id))
    end
  end
  return count
end

-- What the reconciler does for a batch whose time has come. Returns how many jobs it was about.
local function batch_due(tenant, id, now, hints)
  local key = batch_key(tenant, id)
  local batch = redis.call('HMGET', key, 'status', 'expires_at')
  if batch[1] == 'admitting' then
    roll_back(tenant, id)
    return 0
  end
  if batch[1] == 'open' and batch[2] and tonumber(batch[2]) <= now and not unfinished(tenant, id) then
    redis.call('HSET', key, 'expired_at', now)
    begin_removal(tenant, id)
  end
  return batch_step(tenant, id, hints)
end
