#!lua flags=allow-oom
-- dead: convicted jobs, newest first. ARGV: skip, limit. Returns {{member, convicted_at, record}…}, one more than `limit`
-- where there is more. Those whose retention is over are taken off.
local skip, limit = tonumber(ARGV[1]), tonumber(ARGV[2])
local found, at = {}, skip
while #found <= limit do
  local entry = redis.call('ZREVRANGE', P .. 'dead', at, at, 'WITHSCORES')
  if not entry[1] then break end
  local record = redis.call('HGETALL', P .. 'job:' .. entry[1])
  if #record == 0 then
    redis.call('ZREM', P .. 'dead', entry[1])
  else
    table.insert(found, { entry[1], entry[2], record })
    at = at + 1
  end
end
return found
