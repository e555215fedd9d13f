-- Stopping and removing single jobs, for the operations on one and for those on many.

-- A waiting job ends without having run: canceled or expired.
local function end_waiting(tenant, id, status)
  local job = redis.call('HMGET', job_key(tenant, id), 'model', 'key_id', 'rank', 'cost')
  dequeue(tenant, id, job[1], job[2], tonumber(job[3]), number(job[4], 0), false)
  end_job(tenant, id, status, { 'result', '{}' })
end

-- A waiting job ends at once. A running one is marked, and its worker told; if it does not hear, it reads the mark with
-- its next beat. One that has ended stays as it is. Returns the status it had, nil where there is none.
local function cancel_job(tenant, id)
  local key = job_key(tenant, id)
  local job = redis.call('HMGET', key, 'status', 'owner')
  if job[1] == 'queued' then
    end_waiting(tenant, id, 'canceled')
  elseif job[1] == 'running' then
    redis.call('HSET', key, 'cancel', 'canceled')
    redis.call('PUBLISH', P .. 'stop:' .. job[2], member_of(tenant, id)) -- at once; the mark is for a worker that missed it
  end
  return job[1] or nil
end

-- Nothing of the job stays. A running one disappears under its worker, which learns it with its next beat and stops; its
-- finish is fenced. Returns whether there was one.
local function remove_job(tenant, id)
  local key, member = job_key(tenant, id), member_of(tenant, id)
  local job = redis.call('HMGET', key, 'status', 'model', 'key_id', 'user_id', 'cache_key', 'rank', 'cost', 'owner', 'attempt')
  outbox_deleted(tenant, id)
  local tomb = redis.call('DEL', P .. 'tomb:' .. tenant .. ':' .. id)
  if not job[1] then return tomb == 1 end
  if job[1] == 'queued' then dequeue(tenant, id, job[2], job[3], tonumber(job[6]), number(job[7], 0), false) end
  if job[4] then
    local turns = P .. 'history:' .. tenant .. ':' .. job[4]
    for _, turn in ipairs(redis.call('LRANGE', turns, 0, -1)) do
      -- most turns are of other jobs, and looking is cheaper than decoding
      if string.find(turn, id, 1, true) and cjson.decode(turn).job_id == id then redis.call('LREM', turns, 1, turn) end
    end
  end
  if job[5] then redis.call('DEL', P .. 'cache:' .. tenant .. ':' .. job[5]) end
  leave_worker(job[2], job[8], member)
  events_deleted(tenant, id)
  batch_moved(tenant, id, job[1], nil)
  redis.call('ZREM', P .. 'dead', member)
  if job[9] then
    -- A worker may still say the end of an attempt (also of one that it has lost): its number is not given to a new job of
    -- the same id.
    redis.call('SET', P .. 'attempts:' .. member, job[9], 'EX', 86400)
  end
  redis.call('DEL', key)
  redis.call('ZREM', P .. 'jobs:' .. tenant, id)
  redis.call('PUBLISH', P .. 'ended', member)
  return true
end
