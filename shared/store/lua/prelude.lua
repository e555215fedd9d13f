-- Put before every script. KEYS[1] is the prefix of all our keys, with its hash tag: "{stg}:". All keys of a
-- deployment live in one slot, so a script may compute the names of those that it needs.
--
--   job:T:ID        hash    the record (T tenant)            jobs:T        zset  seq -> id, for lists
--   queue:MODEL     zset    ids that wait, by class and seq   queues        set   models that ever had a job
--   waiting         hash    key id -> jobs waiting            seq           counter
--   attempts:T:ID   string  attempts of a deleted job that may still be spoken of
--   tomb:T:ID       string  an expired job answers 410        batch:T:ID    hash
--   history:T:USER  list    turns, oldest first               cache:T:KEY   string
--   idem:SCOPE      hash    idempotency                       key:DIGEST    string, keys hash id -> digest
--   worker:ID       string  its announcement, lease as TTL    workers       zset  end of lease -> id
--   models          hash    name -> announcement              capacity      hash  model -> slots of live workers
--   stats           hash    ended:STATUS counts, ema_ms:MODEL

local P = KEYS[1]
local CLASS = 35184372088832 -- 2^45: a class outweighs every sequence number, and both fit a double exactly

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function job_key(tenant, id) return P .. 'job:' .. tenant .. ':' .. id end

local function queue_key(model) return P .. 'queue:' .. model end

local function member(tenant, id) return tenant .. ':' .. id end

-- Milliseconds until a job at this position starts, from the average execution time and the slots of live workers.
local function eta_ms(model, position)
  local average = tonumber(redis.call('HGET', P .. 'stats', 'ema_ms:' .. model) or 1000)
  local slots = tonumber(redis.call('HGET', P .. 'capacity', model) or 1)
  if slots < 1 then slots = 1 end
  return math.floor(average * position / slots)
end

-- {position, eta}, or {} for a job that does not wait.
local function place(tenant, id, model)
  local rank = redis.call('ZRANK', queue_key(model), member(tenant, id))
  if not rank then return {} end
  return { rank + 1, eta_ms(model, rank + 1) }
end

local function enqueue(tenant, id, model, key_id, rank, seq)
  redis.call('ZADD', queue_key(model), rank * CLASS + seq, member(tenant, id))
  redis.call('HINCRBY', P .. 'waiting', key_id, 1)
end

local function dequeue(tenant, id, model, key_id)
  if redis.call('ZREM', queue_key(model), member(tenant, id)) == 1 then
    if redis.call('HINCRBY', P .. 'waiting', key_id, -1) <= 0 then
      redis.call('HDEL', P .. 'waiting', key_id)
    end
  end
end

-- Why a record is not there: it was and its retention is over, or it never was (or was deleted).
local function absent(tenant, id)
  return redis.call('EXISTS', P .. 'tomb:' .. tenant .. ':' .. id) == 1 and 'gone' or 'missing'
end

-- Write an end. fields: flat list of the record's further fields.
local function end_job(tenant, id, status, now, ttl_ms, tomb_ms, fields)
  local key = job_key(tenant, id)
  redis.call('HSET', key, 'status', status, 'finished_at', now, 'expires_at', now + ttl_ms, unpack(fields))
  redis.call('HDEL', key, 'token', 'cancel')
  redis.call('PEXPIRE', key, ttl_ms)
  if tomb_ms > 0 then redis.call('SET', P .. 'tomb:' .. tenant .. ':' .. id, '', 'PX', ttl_ms + tomb_ms) end
  redis.call('HINCRBY', P .. 'stats', 'ended:' .. status, 1)
  redis.call('PUBLISH', P .. 'ended', member(tenant, id))
end
