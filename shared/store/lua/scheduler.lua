-- The scheduler: which job is next. Strict classes; inside a class the tenant that has been served least, by tokens over
-- weight (the Virtual Token Counter of Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024,
-- algorithm 2; prompt tokens count once, output tokens twice, as there). The backlog stays in lines here; only a window
-- of jobs has a hint in Celery.

-- Write a tenant's counter, and its place in every class where it has a line.
local function set_served(model, tenant, served)
  redis.call('HSET', P .. 'served:' .. model, tenant, served)
  for _, class in ipairs(CLASSES) do redis.call('ZADD', active_key(model, class), 'XX', served, tenant) end
end

-- Charge (or, below zero, refund) weighted tokens to a tenant: tokens over the weight of the key that submitted the job,
-- so that keys of one tenant may differ.
local function charge(model, tenant, tokens)
  set_served(model, tenant, number(redis.call('HGET', P .. 'served:' .. model, tenant), 0) + tokens)
end

local function has_line(model, tenant)
  for _, class in ipairs(CLASSES) do
    if redis.call('ZSCORE', active_key(model, class), tenant) then return true end
  end
  return false
end

-- Put a job into its tenant's line. A tenant that comes back is lifted to the floor, the counter of whom was served
-- last: what it did not use while it was away is not saved up.
local function enqueue(tenant, id, model, key_id, class, seq)
  local served = number(redis.call('HGET', P .. 'served:' .. model, tenant), 0)
  if not has_line(model, tenant) then
    served = math.max(served, number(redis.call('HGET', P .. 'served:' .. model, ''), 0))
    redis.call('HSET', P .. 'served:' .. model, tenant, served)
  end
  redis.call('ZADD', line_key(model, class, tenant), seq, member_of(tenant, id))
  redis.call('ZADD', active_key(model, class), served, tenant)
  redis.call('HINCRBY', P .. 'depth:' .. model, class, 1)
  redis.call('HINCRBY', P .. 'waiting', key_id, 1)
end

local function leave_line(model, class, tenant, member)
  local line = line_key(model, class, tenant)
  if redis.call('ZREM', line, member) == 0 then return false end
  redis.call('HINCRBY', P .. 'depth:' .. model, class, -1)
  if redis.call('EXISTS', line) == 0 then redis.call('ZREM', active_key(model, class), tenant) end
  return true
end

-- Take a waiting job out, wherever it waits. Who leaves the window unserved gets its charge back.
local function dequeue(tenant, id, model, key_id, class, cost, served)
  local member = member_of(tenant, id)
  if redis.call('ZREM', P .. 'sent:' .. model, member) == 1 then
    if not served then charge(model, tenant, -cost) end
  elseif not leave_line(model, class, tenant, member) then
    return
  end
  redis.call('ZREM', P .. 'deadlines', 'queue|' .. member)
  if redis.call('HINCRBY', P .. 'waiting', key_id, -1) <= 0 then redis.call('HDEL', P .. 'waiting', key_id) end
end

-- The next job of a model, out of its line; nil where none waits.
local function pick(model)
  for _, class in ipairs(CLASSES) do
    local first = redis.call('ZRANGE', active_key(model, class), 0, 0, 'WITHSCORES')
    if first[1] then
      local tenant, line = first[1], line_key(model, class, first[1])
      local member = redis.call('ZRANGE', line, 0, 0)[1]
      leave_line(model, class, tenant, member)
      local floor = number(redis.call('HGET', P .. 'served:' .. model, ''), 0)
      redis.call('HSET', P .. 'served:' .. model, '', math.max(floor, tonumber(first[2])))
      return member, tenant
    end
  end
end

-- Move jobs into the window while it has room: the live workers' slots and a little headroom, less what runs and what
-- is on its way. Appends {member, model} to `hints`. Without a live worker nothing is sent: the first one's reconciler will.
local function dispatch(model, hints)
  if redis.call('SISMEMBER', P .. 'paused', model) == 1 then return end
  local slots = capacity_of(model)
  if slots == 0 then return end
  local room = slots + math.max(HEADROOM_LEAST, math.floor(slots / 4))
    - redis.call('SCARD', P .. 'running:' .. model) - redis.call('ZCARD', P .. 'sent:' .. model)
  local now = now_ms()
  while room > 0 do
    local member, tenant = pick(model)
    if not member then return end
    local _, id = split(member)
    charge(model, tenant, number(redis.call('HGET', job_key(tenant, id), 'cost'), 0))
    redis.call('ZADD', P .. 'sent:' .. model, now, member)
    table.insert(hints, { member, model })
    room = room - 1
  end
end

-- {position, eta in ms}, or {} for a job that does not wait. In the window it is exact. In a line it is what round after
-- round of the tenants in the class comes to, bounded by what can at all be before it.
local function place(tenant, id, model, class)
  local member = member_of(tenant, id)
  local sent = P .. 'sent:' .. model
  local position = redis.call('ZRANK', sent, member)
  if position then
    position = position + 1
  else
    local line = line_key(model, class, tenant)
    local rank = redis.call('ZRANK', line, member)
    if not rank then return {} end
    local depths = redis.call('HMGET', P .. 'depth:' .. model, 0, 1, 2)
    local before = redis.call('ZCARD', sent)
    for other = 0, class - 1 do before = before + number(depths[other + 1], 0) end
    local tenants = redis.call('ZCARD', active_key(model, class))
    local turn = redis.call('ZRANK', active_key(model, class), tenant) or 0
    local behind = redis.call('ZCARD', line) - rank - 1
    position = before + math.min(rank * tenants + turn + 1, number(depths[class + 1], 0) - behind)
  end
  local average = number(redis.call('HGET', P .. 'stats', 'ema_ms:' .. model), 1000)
  local slots = math.max(1, capacity_of(model))
  local free = math.max(0, slots - redis.call('SCARD', P .. 'running:' .. model))
  return { position, math.floor(average * math.max(0, position - free) / slots) }
end

-- How far off the ETA of its submit was, when a job starts: a histogram a model, its bounds in milliseconds.
local ETA_BOUNDS = { 500, 1000, 2000, 5000, 10000, 30000, 60000, 300000 }
local function check_eta(model, promised_ms, waited_ms)
  local off = math.abs(waited_ms - promised_ms)
  local key = P .. 'eta_error:' .. model
  redis.call('HINCRBY', key, 'count', 1)
  redis.call('HINCRBY', key, 'sum_ms', off)
  for _, bound in ipairs(ETA_BOUNDS) do
    if off <= bound then
      redis.call('HINCRBY', key, 'le:' .. bound, 1)
      break
    end
  end
end
