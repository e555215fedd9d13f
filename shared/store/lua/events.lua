-- Events: what the streams of a job are read from. Its log is a list of "N KIND VALUE": N is the event's number, the kind is started,
-- restarted, the index of a completion, or that and an l, and the value an attempt, new text, or JSON of new text and
-- log-probabilities. Each event is published on the job's channel too, as it is logged. (A Redis stream would do as well, but its
-- first entry alone takes 4.7 KB.)
-- Neither the first event of a life (queued) nor its last one (the end) is in the log: readers make them up from the record.
-- So a job that waits, or never ran, has no log. Numbers in it follow one on another. Of the log the record has:
--   events     the last number given (none: 1)          told    outputs of this attempt that were logged
--   log_start  the number of this life's queued event (none: 1)   log_ms  how long the log stays after the end

local function log_key(tenant, id) return P .. 'log:' .. tenant .. ':' .. id end

-- Tells the streams of an event. Returns how many processes listen.
local function tell_streams(tenant, id, event)
  return redis.call('PUBLISH', P .. 'events:' .. tenant .. ':' .. id, event)
end

-- entries: {{kind, value}…}, after number `last`. most: how many the log may hold (nil: not looked at). Returns the last number,
-- and how many processes listen.
local function log_entries(tenant, id, entries, last, most)
  local log = log_key(tenant, id)
  local held, heard = 0, 0
  for _, entry in ipairs(entries) do
    last = last + 1
    local event = last .. ' ' .. entry[1] .. ' ' .. entry[2]
    held = redis.call('RPUSH', log, event)
    heard = tell_streams(tenant, id, event)
  end
  if most and held > most then redis.call('LTRIM', log, -most, -1) end
  return last, heard
end

-- Up to `most` logged events after a number.
local function logged_after(tenant, id, number, most)
  local log = log_key(tenant, id)
  local first = redis.call('LINDEX', log, 0)
  if not first then return {} end
  local from = math.max(0, number + 1 - tonumber(string.match(first, '^%d+')))
  return redis.call('LRANGE', log, from, from + most - 1)
end

-- What an attempt said, since its entry number `since` (the first is 0): what is logged already is passed over, so that
-- saying it again adds nothing. Returns how many entries of the attempt the log holds; fewer than `since` where Redis lost
-- some of them, and then nothing is logged; and how many processes listen, 0 where nothing was logged. job: events and told of
-- the record.
local function log_said(tenant, id, job, since, said, most)
  local told = number(job[2], 0)
  local fresh = {}
  if told < since then return told, 0 end
  for at = told - since + 1, #said do table.insert(fresh, said[at]) end
  if #fresh == 0 then return told, 0 end
  local last, heard = log_entries(tenant, id, fresh, number(job[1], 1), most)
  redis.call('HSET', job_key(tenant, id), 'events', last, 'told', told + #fresh)
  return told + #fresh, heard
end

-- A worker has it. log_ms: how long the log is to be kept after the end.
local function events_claimed(tenant, id, attempt, log_ms)
  local key = job_key(tenant, id)
  local last = number(redis.call('HGET', key, 'events'), 1)
  last = log_entries(tenant, id, { { attempt == 1 and 'started' or 'restarted', attempt } }, last)
  redis.call('HSET', key, 'events', last, 'told', 0, 'log_ms', log_ms)
end

-- The one terminal event of this life of the job. The log is not kept for longer than the record.
local function events_ended(tenant, id, status)
  local key, log = job_key(tenant, id), log_key(tenant, id)
  local job = redis.call('HMGET', key, 'events', 'log_ms')
  local last = number(job[1], 1) + 1
  redis.call('HSET', key, 'events', last)
  redis.call('HDEL', key, 'told', 'log_ms')
  if job[2] then
    local left = redis.call('PTTL', key) -- below zero where its batch keeps the record
    redis.call('PEXPIRE', log, left < 0 and tonumber(job[2]) or math.min(tonumber(job[2]), left))
  end
  tell_streams(tenant, id, last .. ' ' .. status .. ' ')
end

-- An ended job waits again: its next life's events go on counting, and the older log is dropped.
local function events_retried(tenant, id)
  local key = job_key(tenant, id)
  local start = number(redis.call('HGET', key, 'events'), 1) + 1
  redis.call('HSET', key, 'events', start, 'log_start', start)
  redis.call('DEL', log_key(tenant, id))
  tell_streams(tenant, id, start .. ' queued ')
end

local function events_deleted(tenant, id)
  redis.call('DEL', log_key(tenant, id))
  tell_streams(tenant, id, '0 deleted ')
end
