#!lua flags=allow-oom
-- batch: a batch and those of its jobs that are still kept. ARGV: tenant, batch id.
-- Returns {created_at, size, {id, record, place, turns}…}, or nil where there is no such batch.
local tenant, id = ARGV[1], ARGV[2]
local batch = redis.call('HMGET', P .. 'batch:' .. tenant .. ':' .. id, 'created_at', 'ids')
if not batch[1] then return nil end
local ids = cjson.decode(batch[2])
local found = { batch[1], #ids }
for _, job_id in ipairs(ids) do
  local key = job_key(tenant, job_id)
  local job = redis.call('HMGET', key, 'status', 'model', 'user_id', 'rank')
  if job[1] then
    local turns = {}
    if job[1] == 'succeeded' and job[3] then
      turns = redis.call('LRANGE', P .. 'history:' .. tenant .. ':' .. job[3], 0, -1)
    end
    table.insert(found, { job_id, redis.call('HGETALL', key), place(tenant, job_id, job[2], tonumber(job[4])), turns })
  end
end
return found
