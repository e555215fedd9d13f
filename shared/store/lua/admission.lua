-- Admission: what is checked before jobs are let in, and the record of one that is.

-- What an Idempotency-Key has seen, as the script's answer; nil where it is new. A receipt that is not there yet is one of
-- a batch whose chunks are still coming.
local function replay(idem, now)
  local seen = redis.call('HMGET', P .. 'idem:' .. idem.scope, 'fp', 'receipt', 'response', 'busy_until')
  if not seen[1] then return nil end
  if seen[1] ~= idem.fp then return { 'idempotency_key_reused' } end
  if seen[3] then return { 'replayed', seen[2], seen[3] } end
  if not seen[2] or tonumber(seen[4]) > now then return { 'idempotency_in_progress' } end
  return { 'replayed', seen[2] }
end

local function remember(idem, receipt, now)
  local key = P .. 'idem:' .. idem.scope
  redis.call('HSET', key, 'fp', idem.fp, 'receipt', receipt, 'busy_until', now + idem.in_progress_ms)
  redis.call('PEXPIRE', key, idem.ttl_ms)
end

local function waiting_in_all()
  local all = 0
  for _, model in ipairs(redis.call('SMEMBERS', P .. 'queues')) do
    all = all + redis.call('ZCARD', P .. 'sent:' .. model)
    for _, depth in ipairs(redis.call('HVALS', P .. 'depth:' .. model)) do all = all + tonumber(depth) end
  end
  for _, staged in ipairs(redis.call('HVALS', P .. 'staged')) do all = all + tonumber(staged) end
  return all
end

-- Is there room for so many jobs under the key's and the deployment's limits? Charges the rate, also where another limit
-- then refuses. Returns a refusal, or nil and {remaining, reset_s, tokens_left, tokens_reset_s}, -1 where there is no limit.
local function check_limits(a, count, now)
  local left = { -1, -1, -1, -1 }
  if a.rate then
    local counter = P .. 'rate:' .. a.rate.key
    local used = tonumber(redis.call('GET', counter) or 0)
    local left_ms = redis.call('PTTL', counter)
    if left_ms <= 0 then used, left_ms = 0, a.rate.window_s * 1000 end -- 0: it ends in this millisecond
    left[2] = math.ceil(left_ms / 1000)
    if used + a.rate.cost > a.rate.limit then return { 'rate_limited', a.rate.limit - used, left[2] } end
    redis.call('SET', counter, used + a.rate.cost, 'PX', left_ms)
    left[1] = a.rate.limit - used - a.rate.cost
  end
  if a.tokens_per_day then
    local day = math.floor(now / 86400000)
    local spent = number(redis.call('HGET', P .. 'spent:' .. a.key_id .. ':' .. day, 'tokens'), 0)
    left[3], left[4] = a.tokens_per_day - spent, math.ceil(((day + 1) * 86400000 - now) / 1000)
    if left[3] <= 0 then return { 'tokens_limited', 0, left[4] } end
  end
  if a.max_waiting and waiting_in_all() + count > a.max_waiting then return { 'queue_full' } end
  if a.max_queued then
    local waiting = tonumber(redis.call('HGET', P .. 'waiting', a.key_id) or 0)
    if waiting + count > a.max_queued then return { 'queue_limit', left[1], left[2] } end
  end
  return nil, left
end

-- The record of a job that waits, without a place in a line. a: {tenant, key_id, tomb_ms, created_at, weight, batch_id, request_id,
-- traceparent}.
local function write_job(a, job, seq)
  local fields = {
    'status', 'queued', 'spec', job.spec, 'fp', job.fp, 'mode', job.mode, 'model', job.model, 'rank', job.rank,
    'seq', seq, 'cost', job.cost / (a.weight or 1), 'key_id', a.key_id, 'created_at', a.created_at, 'ttl_ms', job.ttl_ms, 'tomb_ms', a.tomb_ms }
  for _, name in ipairs({ 'user_id', 'custom_id', 'run_ms', 'queue_ms', 'batch_index', 'hook_url', 'hook_filter' }) do
    if job[name] then table.insert(fields, name); table.insert(fields, job[name]) end
  end
  local attempts = redis.call('GETDEL', P .. 'attempts:' .. member_of(a.tenant, job.id))
  if attempts then table.insert(fields, 'attempt'); table.insert(fields, attempts) end
  for _, name in ipairs({ 'batch_id', 'request_id', 'traceparent', 'weight' }) do
    if a[name] then table.insert(fields, name); table.insert(fields, a[name]) end
  end
  redis.call('HSET', job_key(a.tenant, job.id), unpack(fields))
  redis.call('ZADD', P .. 'jobs:' .. a.tenant, seq, job.id)
  redis.call('SADD', P .. 'tenants', a.tenant)
end

-- A job that was written goes into its line, and its time to wait runs.
local function line_up(a, job, seq)
  enqueue(a.tenant, job.id, job.model, a.key_id, job.rank, seq)
  if job.queue_ms then
    redis.call('ZADD', P .. 'deadlines', a.created_at + job.queue_ms, 'queue|' .. member_of(a.tenant, job.id))
  end
end
