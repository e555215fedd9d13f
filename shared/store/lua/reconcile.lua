#!lua flags=allow-oom
-- reconcile: put right what nobody else will: workers that are gone, hints that were lost, deadlines, age, room in the
-- window. ARGV: lease_ms, grace_ms (of a hint), age_ms (in a class), most_crashes, pause_ms (between
-- passes, whoever makes them: every worker does). Bounded.
-- Returns {hints, again, reaped, held}: hints to send, hints to send once more ahead of others, workers found gone; 1 where after
-- an outage none is found gone yet.
local lease_ms, grace_ms, age_ms, most_crashes = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local BATCH = 100
local hints, again, reaped = {}, {}, {}
local pause_ms = tonumber(ARGV[5])
if pause_ms > 0 and not redis.call('SET', P .. 'reconciled', 1, 'NX', 'PX', pause_ms) then return { hints, again, reaped, 0 } end
local now = now_ms()

mind_outages(now, lease_ms)

local function lost_its_worker(member)
  local tenant, id = split(member)
  local key = job_key(tenant, id)
  local job = redis.call('HMGET', key, 'status', 'cancel')
  if job[1] ~= 'running' then return end
  local crashes = redis.call('HINCRBY', key, 'crashes', 1)
  if job[2] then
    end_job(tenant, id, job[2], { 'result', '{}' })
  elseif crashes >= most_crashes then
    local message = 'The worker died each of the ' .. crashes .. ' times that this job was run.'
    local why = cjson.encode({ code = 'worker_crashed', message = message, retryable = false })
    end_job(tenant, id, 'failed', { 'result', '{}', 'error', why })
    redis.call('ZADD', P .. 'dead', redis.call('INCR', P .. 'seq'), member)
  else
    requeue(tenant, id)
    redis.call('HINCRBY', P .. 'stats', 'requeued', 1)
  end
end

local held = redis.call('EXISTS', P .. 'hold_until')
if held == 0 then
  for _, worker in ipairs(redis.call('ZRANGEBYSCORE', P .. 'workers', '-inf', now, 'LIMIT', 0, BATCH)) do
    for _, member in ipairs(redis.call('SMEMBERS', P .. 'owned:' .. worker)) do lost_its_worker(member) end
    redis.call('DEL', P .. 'owned:' .. worker, P .. 'suspects:' .. worker, P .. 'worker:' .. worker, P .. 'drain:' .. worker)
    redis.call('ZREM', P .. 'workers', worker)
    redis.call('HINCRBY', P .. 'stats', 'leases_expired', 1)
    table.insert(reaped, worker)
  end
end
count_slots(now)

for _, entry in ipairs(redis.call('ZRANGEBYSCORE', P .. 'deadlines', '-inf', now, 'LIMIT', 0, BATCH)) do
  local at = string.find(entry, '|', 1, true)
  local tenant, id = split(string.sub(entry, at + 1))
  local key = job_key(tenant, id)
  local status = redis.call('HGET', key, 'status')
  redis.call('ZREM', P .. 'deadlines', entry)
  if string.sub(entry, 1, at - 1) == 'run' then
    if status == 'running' then redis.call('HSETNX', key, 'cancel', 'expired') end
  elseif status == 'queued' then
    end_waiting(tenant, id, 'expired')
  end
end

-- Who has waited long in a class goes up one, so that low never starves.
local function age(model)
  for class = 1, 2 do
    for _, tenant in ipairs(redis.call('ZRANGE', active_key(model, class), 0, BATCH - 1)) do
      local head = redis.call('ZRANGE', line_key(model, class, tenant), 0, 0)[1]
      local job = redis.call('HMGET', P .. 'job:' .. (head or ''), 'created_at', 'seq', 'aged_at', 'key_id')
      if job[1] and now - number(job[3], job[1]) > age_ms then
        leave_line(model, class, tenant, head)
        redis.call('HSET', P .. 'job:' .. head, 'rank', class - 1, 'aged_at', now)
        redis.call('HINCRBY', P .. 'waiting', job[4], -1)
        local _, id = split(head)
        enqueue(tenant, id, model, job[4], class - 1, tonumber(job[2]))
      end
    end
  end
end

-- Batches that nobody goes on with, or whose retention is over; not many jobs in a pass.
local function see_to_batches()
  local most = 500
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', P .. 'batches_due', '-inf', now, 'LIMIT', 0, 10)) do
    local tenant, id = split(member)
    most = most - batch_due(tenant, id, now, hints)
    if most <= 0 then return end
  end
end

-- A hint is lost where it has been on its way for longer than the grace, though slots are free, or though jobs that
-- were sent after it (by more than the grace) have been claimed: Celery's list is first in, first out.
local function find_lost(model)
  local free = redis.call('SCARD', P .. 'running:' .. model) < capacity_of(model)
  local overtaken = number(redis.call('HGET', P .. 'stats', 'claimed:' .. model), 0) - grace_ms
  local oldest = free and now - grace_ms or math.min(now - grace_ms, overtaken)
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', P .. 'sent:' .. model, '-inf', oldest, 'LIMIT', 0, BATCH)) do
    redis.call('ZADD', P .. 'sent:' .. model, now, member)
    redis.call('HSET', P .. 'job:' .. member, 'resent', 1)
    redis.call('HINCRBY', P .. 'stats', 'resent', 1)
    table.insert(again, { member, model })
  end
end

see_to_batches()
for _, model in ipairs(redis.call('SMEMBERS', P .. 'queues')) do
  age(model)
  if capacity_of(model) > 0 then find_lost(model) end
  dispatch(model, hints)
end
return { hints, again, reaped, held }
