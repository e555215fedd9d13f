#!lua flags=allow-oom
-- queue: what an operator does with a model's queue. ARGV: pause | resume | purge, model, most.
-- Returns {count, hints}: for purge, how many waiting jobs were canceled (call again while it is `most`).
local action, model, most = ARGV[1], ARGV[2], tonumber(ARGV[3])
local hints, count = {}, 0
if action == 'pause' then
  count = redis.call('SADD', P .. 'paused', model)
elseif action == 'resume' then
  count = redis.call('SREM', P .. 'paused', model)
  dispatch(model, hints)
else
  local function drop(member)
    local tenant, id = split(member)
    end_waiting(tenant, id, 'canceled')
    count = count + 1
  end
  for _, member in ipairs(redis.call('ZRANGE', P .. 'sent:' .. model, 0, most - 1)) do drop(member) end
  for _, class in ipairs(CLASSES) do
    while count < most do
      local tenant = redis.call('ZRANGE', active_key(model, class), 0, 0)[1]
      if not tenant then break end
      drop(redis.call('ZRANGE', line_key(model, class, tenant), 0, 0)[1])
    end
  end
end
return { count, hints }
