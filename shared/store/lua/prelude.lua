-- Put before every script. KEYS[1] is the prefix of all our keys, with its hash tag: "{stg}:". All keys of a
-- deployment live in one slot, so a script may compute the names of those that it needs. A job's member name is "T:ID".
--
--   job:T:ID        hash    the record (T tenant)            jobs:T        zset  seq -> id, for lists
--   line:M:C:T      zset    the backlog of a tenant, model and class: seq -> member
--   active:M:C      zset    tenants with a line, by tokens served: served -> tenant
--   served:M        hash    tenant -> tokens served, weighted; '' -> the floor (see charge)
--   depth:M         hash    class -> jobs in lines            sent:M        zset  hint sent at -> member
--   running:M       set     members                           owned:W       set   members that worker W runs
--   queues, paused  set     models
--   deadlines       zset    time -> 'queue|MEMBER' or 'run|MEMBER'
--   waiting         hash    key id -> jobs waiting            seq           counter
--   attempts:T:ID   string  attempts of a deleted job that may still be spoken of
--   tomb:T:ID       string  an expired job answers 410        batch:T:ID    hash    see batches.lua
--   batches:T       zset  seq -> batch id, for lists         batches_due   zset    when to look at it next -> T:ID
--   batch_jobs:T:ID list  job ids, in the order of the request, of those that have a record
--   batch_staged:T:ID     list  of those that have none yet: JSON without the spec, spec, JSON, spec…
--   batch_ended:T:ID      zset  in which order they ended -> job id
--   staged          hash    model -> jobs of batches that were let in and are in no line yet
--   log:T:ID        list    its log (see events.lua); each event is told on the channel events:T:ID too
--   history:T:USER  list    turns, oldest first               cache:T:KEY   string
--   idem:SCOPE      hash    idempotency                       key:DIGEST    string, keys hash id -> digest
--   worker:W        string  its announcement                  workers       zset  end of lease -> id
--   suspects:W      set     members that crashed before and run on W now
--   models          hash    name -> announcement              capacity      hash  model -> slots of live workers
--   dead            zset    seq -> member
--   tenants         set     those with a list of jobs (see sweep)
--   outbox          list    'T:MESSAGE', posted and not yet turned into deliveries
--   message:T:M     hash    what is told, with the record as it was, later its text; open, failed: its deliveries
--   messages:T:ID   set     messages of a job                delivery:T:D  hash    one message to one endpoint
--   lane:L          zset    due -> 'T:DELIVERY'; a lane is a tenant and a receiver
--   lanes           zset    due of its first -> lane         couriers      zset    end of lease -> id
--   endpoint:T:WE   hash    its fields and secrets           endpoints:T   zset    sequence -> id
--   deliveries:T:WE zset    log: sequence -> delivery        hook_events:T hash    event -> endpoints that want it
--   stats           hash    ended:STATUS, webhooks:STATUS counts, ema_ms:MODEL, requeued, resent, …
--   eta_error:M     hash    count, sum_ms, le:BOUND -> jobs whose ETA was off by so much and no less than the bound before
--   drain:W         string  worker W was told to drain
--   usage:T:DAY     hash    KEY|MODEL|field -> tokens, jobs   hold_until, heard_at  strings (see mind_outages)

local P = KEYS[1]
local CLASSES = { 0, 1, 2 }
local HEADROOM_LEAST = 4

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function job_key(tenant, id) return P .. 'job:' .. tenant .. ':' .. id end

local function member_of(tenant, id) return tenant .. ':' .. id end

local function split(member)
  local at = string.find(member, ':', 1, true)
  return string.sub(member, 1, at - 1), string.sub(member, at + 1)
end

local function line_key(model, class, tenant) return P .. 'line:' .. model .. ':' .. class .. ':' .. tenant end

local function active_key(model, class) return P .. 'active:' .. model .. ':' .. class end

local function number(text, otherwise) return tonumber(text or otherwise) end

local function capacity_of(model) return number(redis.call('HGET', P .. 'capacity', model), 0) end

-- A job is off its worker: ended, back in the queue, or deleted. owner: nil or false where it never had one.
local function leave_worker(model, owner, member)
  redis.call('SREM', P .. 'running:' .. model, member)
  redis.call('ZREM', P .. 'deadlines', 'run|' .. member)
  if owner then
    redis.call('SREM', P .. 'owned:' .. owner, member)
    redis.call('SREM', P .. 'suspects:' .. owner, member)
  end
end

-- Why a record is not there: it was and its retention is over, or it never was (or was deleted).
local function absent(tenant, id)
  return redis.call('EXISTS', P .. 'tomb:' .. tenant .. ':' .. id) == 1 and 'gone' or 'missing'
end
