#!lua flags=allow-oom
-- forget: a user's conversation is gone. ARGV: tenant, user. Returns how many turns there were.
local turns = P .. 'history:' .. ARGV[1] .. ':' .. ARGV[2]
local count = redis.call('LLEN', turns)
redis.call('DEL', turns)
return count
