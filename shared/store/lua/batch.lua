#!lua flags=allow-oom
-- batch: a batch, and some of its jobs in the order of the request. ARGV: tenant, batch id, from, most (of the jobs).
-- Returns {fields, eta in ms, {{id, record, place}…}, {user, turns, user, turns…}} (the conversations of those whose job
-- succeeded), or nil where there is no such batch. Deleted jobs are left out.
local tenant, id, from, most = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local head = batch_head(tenant, id)
if not head then return nil end
local jobs, users, turns = {}, {}, {}
for _, job_id in ipairs(most > 0 and redis.call('LRANGE', batch_part('jobs', tenant, id), from, from + most - 1) or {}) do
  local job = redis.call('HMGET', job_key(tenant, job_id), 'status', 'model', 'user_id', 'rank')
  if job[1] then
    table.insert(jobs, { job_id, record_of(tenant, job_id, id), place(tenant, job_id, job[2], tonumber(job[4])) })
    if job[1] == 'succeeded' and job[3] and not users[job[3]] then
      users[job[3]] = true
      table.insert(turns, job[3])
      table.insert(turns, redis.call('LRANGE', P .. 'history:' .. tenant .. ':' .. job[3], 0, -1))
    end
  end
end
return { head, batch_eta(tenant, id), jobs, turns }
