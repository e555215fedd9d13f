#!lua flags=allow-oom
-- drain: a worker is to drain; it reads it with its next beat. ARGV: worker. Returns 1, or 0 where there is no such worker.
local worker = ARGV[1]
if redis.call('EXISTS', P .. 'worker:' .. worker) == 0 then return 0 end
redis.call('SET', P .. 'drain:' .. worker, 1, 'EX', 86400)
return 1
