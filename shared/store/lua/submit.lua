-- submit: admit jobs together or not at all. ARGV[1]: JSON, see RedisStore.submit.
-- Returns {'ok', receipt, created, remaining, reset_s, hints, tokens_left, tokens_reset_s} or {'replayed', receipt, response} or {error, detail…}.
-- Repeated with the same ids (an answer that got lost), it finds its jobs and returns the same receipt.
local a = cjson.decode(ARGV[1])
local now = now_ms()

if a.key_digest and redis.call('EXISTS', P .. 'key:' .. a.key_digest) == 0 then return { 'revoked' } end

local idem_key
if a.idem then
  idem_key = P .. 'idem:' .. a.idem.scope
  local seen = redis.call('HMGET', idem_key, 'fp', 'receipt', 'response', 'busy_until')
  if seen[1] then
    if seen[1] ~= a.idem.fp then return { 'idempotency_key_reused' } end
    if seen[3] then return { 'replayed', seen[2], seen[3] } end
    if tonumber(seen[4]) > now then return { 'idempotency_in_progress' } end
    return { 'replayed', seen[2] }
  end
end

local function receipt_of(jobs, created_at)
  local ids, positions, etas = {}, {}, {}
  for i, job in ipairs(jobs) do
    local at = place(a.tenant, job.id, job.model, job.rank)
    ids[i], positions[i], etas[i] = job.id, at[1] or 0, at[2] or 0
  end
  return cjson.encode({ ids = ids, positions = positions, etas = etas, created_at = created_at, batch_id = a.batch_id })
end

local first = redis.call('HMGET', job_key(a.tenant, a.jobs[1].id), 'fp', 'created_at')
if first[1] then
  if first[1] ~= a.jobs[1].fp then return { 'job_exists' } end
  return { 'ok', receipt_of(a.jobs, tonumber(first[2])), a.chosen and 0 or 1 }
end
if a.chosen and absent(a.tenant, a.jobs[1].id) == 'gone' then return { 'gone' } end

local remaining, reset_s = -1, -1
if a.rate then
  local counter = P .. 'rate:' .. a.rate.key
  local count = tonumber(redis.call('GET', counter) or 0)
  local left_ms = redis.call('PTTL', counter)
  if left_ms < 0 then count, left_ms = 0, a.rate.window_s * 1000 end
  reset_s = math.ceil(left_ms / 1000)
  if count + a.rate.cost > a.rate.limit then return { 'rate_limited', a.rate.limit - count, reset_s } end
  redis.call('SET', counter, count + a.rate.cost, 'PX', left_ms)
  remaining = a.rate.limit - count - a.rate.cost
end

local tokens_left, tokens_reset_s = -1, -1
if a.tokens_per_day then
  local day = math.floor(now / 86400000)
  local spent = number(redis.call('HGET', P .. 'spent:' .. a.key_id .. ':' .. day, 'tokens'), 0)
  tokens_left, tokens_reset_s = a.tokens_per_day - spent, math.ceil(((day + 1) * 86400000 - now) / 1000)
  if tokens_left <= 0 then return { 'tokens_limited', 0, tokens_reset_s } end
end

if a.max_waiting then
  local all = 0
  for _, model in ipairs(redis.call('SMEMBERS', P .. 'queues')) do
    all = all + redis.call('ZCARD', P .. 'sent:' .. model)
    for _, depth in ipairs(redis.call('HVALS', P .. 'depth:' .. model)) do all = all + tonumber(depth) end
  end
  if all + #a.jobs > a.max_waiting then return { 'queue_full' } end
end

if a.max_queued then
  local waiting = tonumber(redis.call('HGET', P .. 'waiting', a.key_id) or 0)
  if waiting + #a.jobs > a.max_queued then return { 'queue_limit', remaining, reset_s } end
end

redis.call('HSET', P .. 'weights', a.tenant, a.weight or 1)
local models, hints = {}, {}
for _, job in ipairs(a.jobs) do
  local seq = redis.call('INCR', P .. 'seq')
  local fields = {
    'status', 'queued', 'spec', job.spec, 'fp', job.fp, 'mode', job.mode, 'model', job.model, 'rank', job.rank,
    'seq', seq, 'cost', job.cost, 'key_id', a.key_id, 'created_at', now, 'ttl_ms', job.ttl_ms, 'tomb_ms', a.tomb_ms }
  for _, name in ipairs({ 'user_id', 'custom_id', 'run_ms', 'queue_ms', 'hook_url', 'hook_filter' }) do
    if job[name] then table.insert(fields, name); table.insert(fields, job[name]) end
  end
  local attempts = redis.call('GETDEL', P .. 'attempts:' .. member_of(a.tenant, job.id))
  if attempts then table.insert(fields, 'attempt'); table.insert(fields, attempts) end
  for _, name in ipairs({ 'batch_id', 'request_id', 'traceparent' }) do
    if a[name] then table.insert(fields, name); table.insert(fields, a[name]) end
  end
  redis.call('HSET', job_key(a.tenant, job.id), unpack(fields))
  redis.call('ZADD', P .. 'jobs:' .. a.tenant, seq, job.id)
  redis.call('SADD', P .. 'queues', job.model)
  enqueue(a.tenant, job.id, job.model, a.key_id, job.rank, seq)
  if job.queue_ms then redis.call('ZADD', P .. 'deadlines', now + job.queue_ms, 'queue|' .. member_of(a.tenant, job.id)) end
  models[job.model] = true
end
for model in pairs(models) do dispatch(model, hints) end

local receipt = receipt_of(a.jobs, now)
if a.batch_id then
  local key = P .. 'batch:' .. a.tenant .. ':' .. a.batch_id
  local ids = {}
  for i, job in ipairs(a.jobs) do ids[i] = job.id end
  redis.call('HSET', key, 'created_at', now, 'ids', cjson.encode(ids))
  redis.call('PEXPIRE', key, a.batch_ttl_ms)
end
if a.idem then
  redis.call('HSET', idem_key, 'fp', a.idem.fp, 'receipt', receipt, 'busy_until', now + a.idem.in_progress_ms)
  redis.call('PEXPIRE', idem_key, a.idem.ttl_ms)
end
return { 'ok', receipt, 1, remaining, reset_s, hints, tokens_left, tokens_reset_s }
