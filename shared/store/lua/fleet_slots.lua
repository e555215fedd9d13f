-- The slots of the ready workers with a live lease, by model: what the window is measured by.
local function count_slots(now)
  local slots = {}
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'workers', '(' .. string.format('%.0f', now), '+inf')) do
    local info = redis.call('GET', P .. 'worker:' .. id)
    if info then
      local worker = cjson.decode(info)
      if worker.state == 'ready' then slots[worker.model.name] = (slots[worker.model.name] or 0) + worker.slots end
    end
  end
  redis.call('DEL', P .. 'capacity')
  for model, count in pairs(slots) do redis.call('HSET', P .. 'capacity', model, count) end
end

-- Where nobody was heard for half a lease, neither a beat nor a pass (Redis was away, or every worker), nobody could renew
-- a lease either: give all of them a whole one before anybody is taken for dead.
local function mind_outages(now, lease_ms)
  local last = number(redis.call('GET', P .. 'heard_at'), now)
  redis.call('SET', P .. 'heard_at', now)
  if now - last > lease_ms / 2 then redis.call('SET', P .. 'hold_until', now + lease_ms, 'PX', lease_ms) end
end
