#!lua flags=allow-oom
-- batch_list: a page of a tenant's batches, newest first. ARGV: tenant, limit, sequence number to go on below (or '').
-- Returns {next, {id, fields}…}; next is -1 at the end.
local tenant, limit, below = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local page = redis.call('ZREVRANGEBYSCORE', P .. 'batches:' .. tenant, below == '' and '+inf' or '(' .. below, '-inf',
  'WITHSCORES', 'LIMIT', 0, limit + 1)
local found = { -1 }
for i = 1, math.min(#page, 2 * limit), 2 do
  local head = batch_head(tenant, page[i])
  if head then table.insert(found, { page[i], head }) end
end
if #page > 2 * limit then found[1] = tonumber(page[2 * limit]) end
return found
