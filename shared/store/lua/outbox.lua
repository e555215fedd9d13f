-- The outbox: what the courier has to tell webhooks. Written in the script that brings about what is told, so that it is
-- told once; nothing is written where nobody wants it. A message keeps the record as it was: a later retry, the end of its
-- retention or a slow courier change nothing about what is told. Only a delete does: what it held is gone.
local OUTPUT_PAUSE_MS = 500
local MESSAGES_OF_A_JOB_MS = 10 * 86400000 -- outlasts the schedule of the last message's deliveries

local function message_key(tenant, message) return P .. 'message:' .. tenant .. ':' .. message end

local function delivery_key(member) return P .. 'delivery:' .. member end

-- filter: a list of events in any notation; no event's name is part of another's.
local function asks(filter, event) return filter and string.find(filter, event, 1, true) ~= nil end

local function endpoints_want(tenant, event)
  return number(redis.call('HGET', P .. 'hook_events:' .. tenant, event), 0) > 0
end

-- Say when a delivery is due in its lane (its tenant and receiver), and the lane among the others. due: nil takes it out.
local function set_due(lane, member, due)
  if due then redis.call('ZADD', P .. 'lane:' .. lane, due, member) else redis.call('ZREM', P .. 'lane:' .. lane, member) end
  local first = redis.call('ZRANGE', P .. 'lane:' .. lane, 0, 0, 'WITHSCORES')
  if first[1] then redis.call('ZADD', P .. 'lanes', first[2], lane) else redis.call('ZREM', P .. 'lanes', lane) end
end

local function wake_couriers() redis.call('PUBLISH', P .. 'posted', '') end

-- at: when it happened. fields: flat list. The same message is posted once.
local function post(tenant, message, event, at, fields)
  local key = message_key(tenant, message)
  if redis.call('EXISTS', key) == 1 then return end
  redis.call('HSET', key, 'type', event, 'at', at, unpack(fields))
  redis.call('RPUSH', P .. 'outbox', member_of(tenant, message))
  wake_couriers()
end

local function post_of_job(tenant, id, job, event, suffix, at, more)
  local message = table.concat({ 'msg', job.seq, job.created_at, job.attempt or 0, suffix }, '_')
  local fields = { 'job_id', id, 'seq', job.seq, 'ttl_ms', job.ttl_ms, 'record',
    cjson.encode(redis.call('HGETALL', job_key(tenant, id))) }
  if asks(job.filter, event) then table.insert(fields, 'url'); table.insert(fields, job.url) end
  for name, value in pairs(job.about) do
    if value then table.insert(fields, name); table.insert(fields, value) end
  end
  for _, field in ipairs(more or {}) do table.insert(fields, field) end
  post(tenant, message, event, at, fields)
  local messages = P .. 'messages:' .. member_of(tenant, id)
  redis.call('SADD', messages, message)
  redis.call('PEXPIRE', messages, MESSAGES_OF_A_JOB_MS)
end

local function hooks_of_job(tenant, id)
  local job = redis.call('HMGET', job_key(tenant, id), 'hook_url', 'hook_filter', 'seq', 'created_at', 'attempt', 'ttl_ms',
    'request_id', 'traceparent', 'started_at', 'finished_at')
  return { url = job[1], filter = job[1] and job[2], seq = job[3], created_at = job[4], attempt = job[5], ttl_ms = job[6],
    about = { request_id = job[7], traceparent = job[8] },
    started_at = job[9], finished_at = job[10] }
end

local function wanted(tenant, job, event) return asks(job.filter, event) or endpoints_want(tenant, event) end

-- event: job.started, or job.STATUS for an end. What it tells is in the record by now.
local function outbox_job(tenant, id, event)
  local key, job = job_key(tenant, id), hooks_of_job(tenant, id)
  if event == 'job.started' then
    if wanted(tenant, job, 'job.output') then redis.call('HSET', key, 'hook_output', 1) else redis.call('HDEL', key, 'hook_output') end
  end
  if not wanted(tenant, job, event) then return end
  if event ~= 'job.started' then redis.call('HSET', key, 'hook_status', 'pending') end
  post_of_job(tenant, id, job, event, string.sub(event, 5), event == 'job.started' and job.started_at or job.finished_at)
end

-- What the first choice of a running job has so far, as its streams read it (see events.lua).
local function text_so_far(tenant, id)
  local parts = {}
  for _, event in ipairs(redis.call('LRANGE', log_key(tenant, id), 0, -1)) do
    local kind, value = string.match(event, '^%d+ (%S+) (.*)$')
    if kind == 'started' or kind == 'restarted' then parts = {} end
    if kind == '0' then table.insert(parts, value) end
    if kind == '0l' then table.insert(parts, cjson.decode(value)[1]) end
  end
  return table.concat(parts)
end

-- A running job has more text; told at most each OUTPUT_PAUSE_MS. Called only where the record has hook_output.
local function outbox_output(tenant, id)
  local key, now = job_key(tenant, id), now_ms()
  if now - number(redis.call('HGET', key, 'hook_output_at'), 0) < OUTPUT_PAUSE_MS then return end
  local job = hooks_of_job(tenant, id)
  if not wanted(tenant, job, 'job.output') then return end
  redis.call('HSET', key, 'hook_output_at', now)
  post_of_job(tenant, id, job, 'job.output', 'output_' .. string.format('%.0f', now), now, { 'text', text_so_far(tenant, id) })
end

-- The last job of a batch has ended. The batch has hook_url and hook_filter where it was submitted with a webhook.
local function outbox_batch(tenant, batch_id)
  local key = P .. 'batch:' .. tenant .. ':' .. batch_id
  local batch = redis.call('HMGET', key, 'hook_url', 'hook_filter', 'completed_at')
  local own = batch[1] and asks(batch[2], 'batch.completed')
  if not own and not endpoints_want(tenant, 'batch.completed') then return end
  local fields = { 'batch_id', batch_id, 'record', cjson.encode(redis.call('HGETALL', key)) }
  if own then table.insert(fields, 'url'); table.insert(fields, batch[1]) end
  for i, value in ipairs(redis.call('HMGET', key, 'request_id', 'traceparent')) do
    if value then table.insert(fields, ({ 'request_id', 'traceparent' })[i]); table.insert(fields, value) end
  end
  post(tenant, table.concat({ 'msg', batch_id, batch[3] }, '_'), 'batch.completed', batch[3], fields)
end

-- A job is deleted: so is what its messages hold. The deliveries that wait come up now, find nothing, and end.
local function outbox_deleted(tenant, id)
  local messages = P .. 'messages:' .. member_of(tenant, id)
  if redis.call('EXISTS', messages) == 0 then return end
  for _, message in ipairs(redis.call('SMEMBERS', messages)) do
    local key = message_key(tenant, message)
    for delivery in string.gmatch(redis.call('HGET', key, 'deliveries') or '', '%S+') do
      local member = member_of(tenant, delivery)
      local lane = redis.call('HMGET', delivery_key(member), 'lane', 'status')
      if lane[2] == 'pending' then set_due(lane[1], member, now_ms()) end
    end
    redis.call('DEL', key)
  end
  redis.call('DEL', messages)
  wake_couriers()
end
