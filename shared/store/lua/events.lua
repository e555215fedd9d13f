-- Events: the log of a job that its streams are read from. Called by the operations wherever something happens to a job.

local function events_claimed(tenant, id, attempt) end -- a worker has it: started, or restarted

local function events_ended(tenant, id, status) end -- the one terminal event of this life of the job

local function events_retried(tenant, id) end -- an ended job waits again

local function events_deleted(tenant, id) end
