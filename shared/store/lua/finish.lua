#!lua flags=allow-oom
-- finish: write the end of an attempt with all its effects. ARGV[1]: JSON, see RedisStore.finish.
-- Returns 'accepted' (also to the same attempt saying the same again) or 'fenced'.
local a = cjson.decode(ARGV[1])
local key = job_key(a.tenant, a.id)
local job = redis.call('HMGET', key, 'status', 'owner', 'attempt', 'started_at', 'ttl_ms', 'tomb_ms', 'model', 'user_id', 'mode', 'spec')
if not job[1] or job[2] ~= a.worker or tonumber(job[3]) ~= a.attempt then return 'fenced' end
if job[1] == a.status then return 'accepted' end
if job[1] ~= 'running' then return 'fenced' end

local now = now_ms()
local fields = { 'result', a.result }
if a.error then table.insert(fields, 'error'); table.insert(fields, a.error) end
if a.cache_key then table.insert(fields, 'cache_key'); table.insert(fields, a.cache_key) end
end_job(a.tenant, a.id, a.status, now, tonumber(job[5]), tonumber(job[6]), fields)

if a.status == 'succeeded' then
  if job[8] and a.output and a.max_turns > 0 then
    local turns = P .. 'history:' .. a.tenant .. ':' .. job[8]
    local turn = { job_id = a.id, input = cjson.decode(job[10]).prompt, output = a.output, mode = job[9], created_at = now }
    redis.call('RPUSH', turns, cjson.encode(turn))
    redis.call('LTRIM', turns, -a.max_turns, -1)
    redis.call('PEXPIRE', turns, a.history_ttl_ms)
  end
  if a.cache_value then
    redis.call('SET', P .. 'cache:' .. a.tenant .. ':' .. a.cache_key, a.cache_value, 'PX', a.cache_ttl_ms)
  end
  if not a.cached then
    local took = now - tonumber(job[4])
    local average = redis.call('HGET', P .. 'stats', 'ema_ms:' .. job[7])
    if average then took = average * 0.9 + took * 0.1 end
    redis.call('HSET', P .. 'stats', 'ema_ms:' .. job[7], took)
  end
end
return 'accepted'
