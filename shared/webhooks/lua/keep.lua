#!lua flags=allow-oom
-- keep: the text of a message, before it is first sent, so that every attempt sends the same. ARGV: tenant, message, text.
-- Returns the text that is kept, or nil where the message was deleted meanwhile.
local key = message_key(ARGV[1], ARGV[2])
if redis.call('EXISTS', key) == 0 then return nil end
redis.call('HSETNX', key, 'payload', ARGV[3])
redis.call('HDEL', key, 'record', 'text')
return redis.call('HGET', key, 'payload')
