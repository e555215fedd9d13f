-- complete: keep the answer of the first request under an Idempotency-Key. ARGV: scope, response.
local key = P .. 'idem:' .. ARGV[1]
if redis.call('EXISTS', key) == 0 then return 0 end -- its time is over: make no record that would never end
redis.call('HSET', key, 'response', ARGV[2])
return 1
