#!lua flags=allow-oom
-- depart: a worker that exits cleanly is off the list at once. ARGV: worker.
redis.call('DEL', P .. 'worker:' .. ARGV[1])
return redis.call('ZREM', P .. 'workers', ARGV[1])
