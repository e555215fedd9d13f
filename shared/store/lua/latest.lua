#!lua flags=allow-oom
-- latest: the last event's number of many jobs. ARGV: members. Returns a number for each; 0 where there is no record.
local found = {}
for at, member in ipairs(ARGV) do
  local job = redis.call('HMGET', P .. 'job:' .. member, 'status', 'events')
  found[at] = job[1] and number(job[2], 1) or 0
end
return found
