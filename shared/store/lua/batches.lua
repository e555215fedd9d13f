-- Batches: their counts, kept by the scripts that move a job. from, to: a status, or nil where the job comes or goes.
local function batch_moved(tenant, id, from, to) end
