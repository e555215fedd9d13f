#!lua flags=allow-oom
-- finish: write the end of an attempt with all its effects. ARGV[1]: JSON, see RedisStore.finish.
-- Returns {'accepted', hints} (also to the same attempt saying the same again) or {'fenced'}.
local a = cjson.decode(ARGV[1])
local key = job_key(a.tenant, a.id)
local job = redis.call('HMGET', key, 'status', 'owner', 'attempt', 'started_at', 'model', 'user_id', 'mode', 'spec',
  'key_id', 'cost', 'weight', 'events', 'told')
if not job[1] or job[2] ~= a.worker or tonumber(job[3]) ~= a.attempt then return { 'fenced' } end
if job[1] == a.status then return { 'accepted', {} } end
if job[1] ~= 'running' then return { 'fenced' } end

local now, model = now_ms(), job[5]
-- What the attempt said and the log does not hold yet. A log that lost some of it is worth nothing any more.
if a.said and log_said(a.tenant, a.id, { job[12], job[13] }, a.since, a.said, a.most) < a.since then
  redis.call('DEL', log_key(a.tenant, a.id))
end

local fields = { 'result', a.result }
if a.error then table.insert(fields, 'error'); table.insert(fields, a.error) end
if a.cache_key then table.insert(fields, 'cache_key'); table.insert(fields, a.cache_key) end
end_job(a.tenant, a.id, a.status, fields)
account(a.tenant, model, job[9], number(job[11], 1), number(job[10], 0), a.prompt_tokens, a.completion_tokens,
  a.cached_tokens)

if a.status == 'succeeded' then
  local spec = job[6] and a.output and a.max_turns > 0 and cjson.decode(job[8])
  if spec and not spec.prompt_token_ids then -- token ids are no turn of a conversation
    local turns = P .. 'history:' .. a.tenant .. ':' .. job[6]
    local turn = { job_id = a.id, input = spec.prompt, output = a.output, mode = job[7], created_at = now }
    redis.call('RPUSH', turns, cjson.encode(turn))
    redis.call('LTRIM', turns, -a.max_turns, -1)
    redis.call('PEXPIRE', turns, a.history_ttl_ms)
  end
  if a.cache_key and not a.cached then
    redis.call('SET', P .. 'cache:' .. a.tenant .. ':' .. a.cache_key, a.result, 'PX', a.cache_ttl_ms)
  end
  if not a.cached then
    local took = now - tonumber(job[4])
    local average = redis.call('HGET', P .. 'stats', 'ema_ms:' .. model)
    if average then took = average * 0.9 + took * 0.1 end
    redis.call('HSET', P .. 'stats', 'ema_ms:' .. model, took)
  end
end
local hints = {}
dispatch(model, hints)
return { 'accepted', hints }
