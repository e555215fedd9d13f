#!lua flags=allow-oom
-- take: what this courier is to send now. Messages in the outbox become deliveries first, one for each endpoint that wants
-- them. ARGV[1]: JSON {courier, alive_ms (its announcement), lease_ms (of a delivery), room, seed (of ids), keep_ms, lanes:
-- {lane: how many more this courier may send there}, in_lane (of any other lane), look (lanes to look at)}.
-- Returns {{member, delivery, endpoint, message, turns}…}, now, and when the next one is due (-1: none).
-- A delivery that was taken comes up again at the end of its lease; who reports then is too late.
local a = cjson.decode(ARGV[1])
local EXPAND = 50
local now = now_ms()
redis.call('ZADD', P .. 'couriers', now + a.alive_ms, a.courier)
redis.call('ZREMRANGEBYSCORE', P .. 'couriers', '-inf', now)

local number_of = 0
local function new_id()
  number_of = number_of + 1
  return 'dlv_' .. a.seed .. string.format('%04d', number_of)
end

local function expand(tenant, message)
  local key = message_key(tenant, message)
  local told = redis.call('HMGET', key, 'type', 'url')
  if not told[1] then return end -- its job was deleted
  local count = 0
  if told[2] then
    deliver(tenant, message, told[1], 'default', told[2], new_id())
    count = 1
  end
  for _, id in ipairs(redis.call('ZRANGE', P .. 'endpoints:' .. tenant, 0, -1)) do
    local endpoint = redis.call('HMGET', endpoint_key(tenant, id), 'status', 'events', 'url')
    if endpoint[1] == 'enabled' and asks(endpoint[2], told[1]) then
      deliver(tenant, message, told[1], id, endpoint[3], new_id())
      count = count + 1
    end
  end
  if count > 0 then return end
  local about = redis.call('HMGET', key, 'job_id', 'seq')
  redis.call('DEL', key)
  if about[1] and is_end(told[1]) and redis.call('HGET', job_key(tenant, about[1]), 'seq') == about[2] then
    redis.call('HDEL', job_key(tenant, about[1]), 'hook_status')
  end
end

for _ = 1, EXPAND do
  local posted = redis.call('LPOP', P .. 'outbox')
  if not posted then break end
  expand(split(posted))
end

now = now_ms() -- the clock goes on in a script, and new deliveries are due at once
local found = {}

local function fail(tenant, id, why)
  redis.call('HSET', delivery_key(member_of(tenant, id)), 'error', why)
  settle(tenant, id, 'failed', a.keep_ms)
end

local function lease(lane, member)
  local tenant, id = split(member)
  local key = delivery_key(member)
  local seen = redis.call('HMGET', key, 'endpoint', 'message', 'status')
  if seen[3] ~= 'pending' then return set_due(lane, member, nil) end
  local endpoint = redis.call('HGETALL', endpoint_key(tenant, seen[1]))
  local message = redis.call('HGETALL', message_key(tenant, seen[2]))
  if #message == 0 then return fail(tenant, id, 'What it tells of was deleted.') end
  if seen[1] ~= 'default' then
    local status, url = unpack(redis.call('HMGET', endpoint_key(tenant, seen[1]), 'status', 'url'))
    if not status then return fail(tenant, id, 'The endpoint was deleted.') end
    if status ~= 'enabled' then return fail(tenant, id, 'The endpoint is disabled.') end
    redis.call('HSET', key, 'url', url)
  end
  local attempt = redis.call('HINCRBY', key, 'attempts', 1)
  redis.call('HINCRBY', key, 'step', 1)
  redis.call('HSET', key, 'lease', a.courier .. '#' .. attempt)
  set_due(lane, member, now + a.lease_ms)
  local turns, about = {}, redis.call('HMGET', message_key(tenant, seen[2]), 'record', 'job_id', 'type')
  if about[1] and about[3] == 'job.succeeded' then
    local user = redis.call('HGET', job_key(tenant, about[2]), 'user_id')
    if user then turns = redis.call('LRANGE', P .. 'history:' .. tenant .. ':' .. user, 0, -1) end
  end
  table.insert(found, { member, redis.call('HGETALL', key), endpoint, message, turns })
end

for _, lane in ipairs(redis.call('ZRANGEBYSCORE', P .. 'lanes', '-inf', now, 'LIMIT', 0, a.look)) do
  local room = math.min(a.lanes[lane] or a.in_lane, a.room - #found)
  if room > 0 then
    for _, member in ipairs(redis.call('ZRANGEBYSCORE', P .. 'lane:' .. lane, '-inf', now, 'LIMIT', 0, room)) do
      lease(lane, member)
    end
  end
end

local next_due = -1
for _, lane in ipairs(redis.call('ZRANGE', P .. 'lanes', 0, a.look)) do
  if a.lanes[lane] ~= 0 then
    next_due = redis.call('ZSCORE', P .. 'lanes', lane)
    break
  end
end
if redis.call('EXISTS', P .. 'outbox') == 1 then next_due = now end
return { found, now, next_due }
