#!lua flags=allow-oom
-- dead: convicted jobs, newest first. ARGV: below (a sequence number, or '+inf'), limit. Returns {{member, seq, record}…}, one
-- more than `limit` where there is more. Those whose retention is over are taken off.
local below, limit = ARGV[1], tonumber(ARGV[2])
local found = {}
while #found <= limit do
  local entry = redis.call('ZREVRANGEBYSCORE', P .. 'dead', below, '-inf', 'WITHSCORES', 'LIMIT', 0, 1)
  if not entry[1] then break end
  below = '(' .. entry[2]
  local record = redis.call('HGETALL', P .. 'job:' .. entry[1])
  if #record == 0 then
    redis.call('ZREM', P .. 'dead', entry[1])
  else
    table.insert(found, { entry[1], entry[2], record })
  end
end
return found
