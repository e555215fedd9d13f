-- submit: admit jobs together or not at all. ARGV[1]: JSON, see RedisStore.submit. Batches: batch_admit.
-- Returns {'ok', receipt, created, remaining, reset_s, hints, tokens_left, tokens_reset_s} or {'replayed', receipt, response} or {error, detail…}.
-- Repeated with the same ids (an answer that got lost), it finds its jobs and returns the same receipt.
local a = cjson.decode(ARGV[1])
local now = now_ms()
a.created_at = now

if a.key_digest and redis.call('EXISTS', P .. 'key:' .. a.key_digest) == 0 then return { 'revoked' } end

local seen = a.idem and replay(a.idem, now)
if seen then return seen end

local function receipt_of(jobs, created_at)
  local ids, positions, etas = {}, {}, {}
  for i, job in ipairs(jobs) do
    local at = place(a.tenant, job.id, job.model, job.rank)
    ids[i], positions[i], etas[i] = job.id, at[1] or 0, at[2] or 0
  end
  return cjson.encode({ ids = ids, positions = positions, etas = etas, created_at = created_at })
end

local first = redis.call('HMGET', job_key(a.tenant, a.jobs[1].id), 'fp', 'created_at')
if first[1] then
  if first[1] ~= a.jobs[1].fp then return { 'job_exists' } end
  return { 'ok', receipt_of(a.jobs, tonumber(first[2])), a.chosen and 0 or 1 }
end
if a.chosen and absent(a.tenant, a.jobs[1].id) == 'gone' then return { 'gone' } end

local refused, left = check_limits(a, #a.jobs, now)
if refused then return refused end

local models, hints = {}, {}
for _, job in ipairs(a.jobs) do
  local seq = redis.call('INCR', P .. 'seq')
  redis.call('SADD', P .. 'queues', job.model)
  write_job(a, job, seq)
  line_up(a, job, seq)
  models[job.model] = true
end
for model in pairs(models) do dispatch(model, hints) end

local receipt = receipt_of(a.jobs, now)
for i, promised in ipairs(cjson.decode(receipt).etas) do
  redis.call('HSET', job_key(a.tenant, a.jobs[i].id), 'eta_ms', promised) -- looked at when it starts
end
if a.idem then remember(a.idem, receipt, now) end
return { 'ok', receipt, 1, left[1], left[2], hints, left[3], left[4] }
