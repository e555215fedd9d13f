#!lua flags=allow-oom
-- figures: what metrics want of the store, as of now. ARGV[1]: JSON list of tenants to be told apart.
-- Costs by queues, live workers and named tenants, not by jobs. Returns JSON, see shared/store/figures.py.
-- The oldest job is looked for among the heads of so many tenants' lines at either end of a class, and among so many of
-- the window: exact up to twice that many tenants in a class.
local HEADS = 100
local PRIORITIES = { [0] = 'high', 'normal', 'low' }
local now = now_ms()
local figures = { now = now, queues = {}, workers = {}, tenants = {}, ended = {}, events = {} }

for _, status in ipairs({ 'succeeded', 'failed', 'canceled', 'expired' }) do
  figures.ended[status] = number(redis.call('HGET', P .. 'stats', 'ended:' .. status), 0)
end
for _, event in ipairs({ 'requeued', 'resent', 'leases_expired' }) do
  figures.events[event] = number(redis.call('HGET', P .. 'stats', event), 0)
end
-- Those whose retention is over count no more; a few are taken off each time.
for _, member in ipairs(redis.call('ZRANGE', P .. 'dead', 0, 9)) do
  if redis.call('EXISTS', P .. 'job:' .. member) == 0 then redis.call('ZREM', P .. 'dead', member) end
end
figures.dead_letters = redis.call('ZCARD', P .. 'dead')

for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'workers', string.format('%.0f', now), '+inf')) do
  local info = redis.call('GET', P .. 'worker:' .. id)
  if info then
    local worker = cjson.decode(info)
    table.insert(figures.workers, { worker.model.name, worker.state })
  end
end

local models = {}
for _, model in ipairs(redis.call('SMEMBERS', P .. 'queues')) do models[model] = true end
for _, model in ipairs(redis.call('HKEYS', P .. 'capacity')) do models[model] = true end

local function oldest_of(model)
  local oldest
  local function look(member)
    if not member then return end
    local times = redis.call('HMGET', P .. 'job:' .. member, 'waits_since', 'created_at')
    local since = tonumber(times[1] or times[2] or nil)
    if since and (not oldest or since < oldest) then oldest = since end
  end
  for _, member in ipairs(redis.call('ZRANGE', P .. 'sent:' .. model, 0, HEADS - 1)) do look(member) end
  for _, class in ipairs(CLASSES) do
    local active = active_key(model, class)
    local function heads(tenants)
      for _, tenant in ipairs(tenants) do look(redis.call('ZRANGE', line_key(model, class, tenant), 0, 0)[1]) end
    end
    heads(redis.call('ZRANGE', active, 0, HEADS - 1))
    if redis.call('ZCARD', active) > HEADS then heads(redis.call('ZRANGE', active, -HEADS, -1)) end
  end
  return oldest
end

for model in pairs(models) do
  local depths, eta = redis.call('HMGET', P .. 'depth:' .. model, 0, 1, 2), {}
  local error_key = P .. 'eta_error:' .. model
  for i, bound in ipairs(ETA_BOUNDS) do
    eta[i] = { bound, number(redis.call('HGET', error_key, 'le:' .. bound), 0) }
  end
  local lines = {}
  for class = 0, 2 do lines[PRIORITIES[class]] = number(depths[class + 1], 0) end
  figures.queues[model] = {
    window = redis.call('ZCARD', P .. 'sent:' .. model),
    lines = lines,
    running = redis.call('SCARD', P .. 'running:' .. model),
    slots = capacity_of(model),
    paused = redis.call('SISMEMBER', P .. 'paused', model),
    oldest_at = oldest_of(model),
    eta = eta,
    eta_count = number(redis.call('HGET', error_key, 'count'), 0),
    eta_sum_ms = number(redis.call('HGET', error_key, 'sum_ms'), 0),
  }
end

-- Messages that are not yet deliveries, deliveries that were due before now, and who waits longest of both. A delivery under
-- way is due at the end of its lease; one that failed, at its next attempt.
local posted = redis.call('LINDEX', P .. 'outbox', 0)
local posted_at = posted and number(redis.call('HGET', message_key(split(posted)), 'at'), nil)
local first = redis.call('ZRANGE', P .. 'lanes', 0, 0, 'WITHSCORES')
local due_at = number(first[2], now)
figures.webhooks = {
  outbox = redis.call('LLEN', P .. 'outbox'),
  due = redis.call('ZCOUNT', P .. 'lanes', '-inf', string.format('%.0f', now)),
  oldest_at = math.min(posted_at or now, due_at, now),
  couriers = redis.call('ZCOUNT', P .. 'couriers', string.format('%.0f', now), '+inf'),
}

local day = math.floor(now / 86400000)
for _, tenant in ipairs(cjson.decode(ARGV[1])) do
  local waiting, used = 0, { jobs = 0, prompt_tokens = 0, completion_tokens = 0 }
  for model in pairs(models) do
    for _, class in ipairs(CLASSES) do waiting = waiting + redis.call('ZCARD', line_key(model, class, tenant)) end
  end
  local usage = redis.call('HGETALL', P .. 'usage:' .. tenant .. ':' .. day)
  for i = 1, #usage, 2 do
    local field = string.match(usage[i], '[^|]+$')
    used[field] = (used[field] or 0) + tonumber(usage[i + 1])
  end
  figures.tenants[tenant] = { waiting = waiting, used = used }
end
return cjson.encode(figures)
