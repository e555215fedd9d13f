-- batch_admit: one chunk of a batch; the first one passes every check for the whole of it, and the last one accepts it.
-- ARGV[1]: JSON {tenant, batch_id, at (jobs in the chunks before), size, and in the first chunk what submit takes},
-- then for each job its JSON without the spec, and the spec.
-- Returns {'stored', limits}, or for the last chunk {'ok', receipt, limits, more, hints} (more: 1 where there is a step to
-- make, see batch_step), or {'replayed', receipt, response}, {'lost'} (rolled back meanwhile), or {error, detail…}.
-- Until the last chunk the jobs are only staged: nobody sees them, but they count as waiting. A chunk that comes again
-- (its answer got lost) changes nothing.
local ADMITTING_MS = 60000 -- a batch whose next chunk does not come for so long is rolled back
local a = cjson.decode(ARGV[1])
local now = now_ms()
local key, member = batch_key(a.tenant, a.batch_id), member_of(a.tenant, a.batch_id)
local staged = batch_part('staged', a.tenant, a.batch_id)
local count = (#ARGV - 1) / 2
local limits = { -1, -1, -1, -1 }

local function begin()
  if a.key_digest and redis.call('EXISTS', P .. 'key:' .. a.key_digest) == 0 then return { 'revoked' } end
  local seen = a.idem and replay(a.idem, now)
  if seen then return seen end
  local refused, left = check_limits(a, a.size, now)
  if refused then return refused end
  limits = left
  local fields = {
    'status', 'admitting', 'size', a.size, 'stored', 0, 'key_id', a.key_id, 'tomb_ms', a.tomb_ms, 'ttl_ms', a.ttl_ms,
    'models', cjson.encode(a.models) }
  for _, name in ipairs({ 'request_id', 'traceparent', 'weight', 'hook_url', 'hook_filter' }) do
    if a[name] then table.insert(fields, name); table.insert(fields, a[name]) end
  end
  if a.idem then
    table.insert(fields, 'idem'); table.insert(fields, a.idem.scope)
    table.insert(fields, 'busy_ms'); table.insert(fields, a.idem.in_progress_ms)
    redis.call('HSET', P .. 'idem:' .. a.idem.scope, 'fp', a.idem.fp)
    redis.call('PEXPIRE', P .. 'idem:' .. a.idem.scope, a.idem.ttl_ms)
  end
  redis.call('HSET', key, unpack(fields))
  for model, jobs in pairs(a.models) do redis.call('HINCRBY', P .. 'staged', model, jobs) end
  redis.call('HINCRBY', P .. 'waiting', a.key_id, a.size)
end

local function receipt()
  local created_at = tonumber(redis.call('HGET', key, 'created_at'))
  return cjson.encode({ batch_id = a.batch_id, size = a.size, created_at = created_at, eta = batch_eta(a.tenant, a.batch_id) })
end

local function accept(hints)
  local models = cjson.decode(redis.call('HGET', key, 'models'))
  for model in pairs(models) do redis.call('SADD', P .. 'queues', model) end
  local seq = redis.call('INCRBY', P .. 'seq', a.size) - a.size + 1
  redis.call('HSET', key, 'status', 'open', 'created_at', now, 'seq', seq, 'total', a.size, 'queued', a.size, 'running', 0,
    'succeeded', 0, 'failed', 0, 'canceled', 0, 'expired', 0)
  redis.call('ZADD', P .. 'batches:' .. a.tenant, seq, a.batch_id)
  batch_step(a.tenant, a.batch_id, hints)
  local idem = redis.call('HMGET', key, 'idem', 'busy_ms')
  if idem[1] then
    redis.call('HSET', P .. 'idem:' .. idem[1], 'receipt', receipt(), 'busy_until', now + tonumber(idem[2]))
  end
end

if a.at == 0 and redis.call('EXISTS', key) == 0 then
  local answer = begin()
  if answer then return answer end
end
local batch = redis.call('HMGET', key, 'status', 'stored')
local hints = {}
if batch[1] == 'admitting' and tonumber(batch[2]) == a.at then
  for i = 2, #ARGV, 1000 do redis.call('RPUSH', staged, unpack(ARGV, i, math.min(i + 999, #ARGV))) end
  redis.call('HSET', key, 'stored', a.at + count)
  redis.call('ZADD', P .. 'batches_due', now + ADMITTING_MS, member)
  if a.at + count == a.size then accept(hints) end
elseif not batch[1] or batch[1] == 'removing' or tonumber(batch[2]) < a.at then
  return { 'lost' }
end
if a.at + count < a.size then return { 'stored', limits } end
return { 'ok', receipt(), limits, unfinished(a.tenant, a.batch_id) and 1 or 0, hints }
