#!lua flags=allow-oom
-- list: a tenant's endpoints, oldest first, or the one that ARGV[2] names. ARGV: tenant, id or ''.
-- Returns {{id, fields}…}.
local tenant, found = ARGV[1], {}
local ids = ARGV[2] ~= '' and { ARGV[2] } or redis.call('ZRANGE', P .. 'endpoints:' .. tenant, 0, -1)
for _, id in ipairs(ids) do
  local fields = redis.call('HGETALL', endpoint_key(tenant, id))
  if #fields > 0 then table.insert(found, { id, fields }) end
end
return found
