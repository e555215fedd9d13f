-- progress: put what running attempts said into their jobs' logs; all jobs of a worker in one call.
-- ARGV[1]: JSON {worker, most, jobs: [[tenant, id, attempt, since, [[kind, value]…]]…]}, see log_said.
-- Returns for each job {how many entries of the attempt its log holds, 1 where somebody follows it or a webhook wants its output
-- and 0 where nobody does}; -1 entries where the attempt does not own the job.
-- Not allow-oom: what a full server refuses stays with the worker, and comes with the finish at the latest.
local a = cjson.decode(ARGV[1])
local told = {}
for at, said in ipairs(a.jobs) do
  local tenant, id = said[1], said[2]
  local job = redis.call('HMGET', job_key(tenant, id), 'events', 'told', 'status', 'owner', 'attempt', 'hook_output')
  if job[3] == 'running' and job[4] == a.worker and tonumber(job[5]) == said[3] then
    local count, heard = log_said(tenant, id, job, said[4], said[5], a.most)
    if job[6] and count > number(job[2], 0) then outbox_output(tenant, id) end
    told[at] = { count, (job[6] or heard > 0) and 1 or 0 }
  else
    told[at] = { -1, 0 }
  end
end
return told
