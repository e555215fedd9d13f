#!lua flags=allow-oom
-- log: a job, and its logged events after a number. ARGV: tenant, id, after, most.
-- Returns {'ok', record, place, turns, start, last, entries}, entries as "N KIND VALUE"; or
-- {'gone' | 'missing'}. start: the number of this life's queued event. last: the last number given.
local tenant, id = ARGV[1], ARGV[2]
local key = job_key(tenant, id)
local job = redis.call('HMGET', key, 'status', 'model', 'user_id', 'rank', 'events', 'log_start')
if not job[1] then return { absent(tenant, id) } end
local turns = {}
if job[1] == 'succeeded' and job[3] then
  turns = redis.call('LRANGE', P .. 'history:' .. tenant .. ':' .. job[3], 0, -1)
end
return {
  'ok', redis.call('HGETALL', key), place(tenant, id, job[2], tonumber(job[4])), turns,
  number(job[6], 1), number(job[5], 1), logged_after(tenant, id, tonumber(ARGV[3]), tonumber(ARGV[4])),
}
