-- The outbox: what the courier has to tell webhooks. Written in the script that brings about what is told.

local function outbox_job(tenant, id, event) end -- event: job.started, job.succeeded, …

local function outbox_batch(tenant, batch_id) end -- batch.completed; the batch's hash may hold hook_url and hook_filter
