#!lua flags=allow-oom
-- depart: a worker that exits cleanly is off the list at once; what it still ran goes back, and no crash is counted.
-- ARGV: worker. Returns hints.
local worker = ARGV[1]
redis.call('DEL', P .. 'worker:' .. worker, P .. 'drain:' .. worker)
redis.call('ZREM', P .. 'workers', worker)
count_slots(now_ms())
local hints = {}
for _, member in ipairs(redis.call('SMEMBERS', P .. 'owned:' .. worker)) do
  dispatch(hand_back(split(member)), hints)
end
redis.call('DEL', P .. 'owned:' .. worker, P .. 'suspects:' .. worker)
return hints
