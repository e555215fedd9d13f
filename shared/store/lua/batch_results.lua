#!lua flags=allow-oom
-- batch_results: jobs of a batch that have ended, in the order of their ends. ARGV: tenant, batch id, after (the place of
-- the last one known), limit (of the page), most (records in this answer).
-- Returns {fields, ends, last, {place, id, fields…}…}: ends is the place of the latest end there ever was, last that of
-- the page's last job; nil where there is no such batch.
local tenant, id, after = ARGV[1], ARGV[2], ARGV[3]
local head = batch_head(tenant, id)
if not head then return nil end
local ends = number(redis.call('HGET', batch_key(tenant, id), 'ends'), 0)
local page = redis.call('ZRANGEBYSCORE', batch_part('ended', tenant, id), '(' .. after, '+inf', 'WITHSCORES', 'LIMIT', 0, tonumber(ARGV[4]))
local found = { head, ends, tonumber(page[#page] or after) }
for i = 1, math.min(#page, 2 * tonumber(ARGV[5])), 2 do
  local job = redis.call('HMGET', job_key(tenant, page[i]), 'status', 'batch_index', 'custom_id', 'finished_at', 'result', 'error')
  table.insert(found, { tonumber(page[i + 1]), page[i], job })
end
return found
