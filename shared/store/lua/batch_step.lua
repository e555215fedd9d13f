#!lua flags=allow-oom
-- batch_step: go on with a batch: enroll, cancel or remove its next jobs. ARGV: tenant, batch id.
-- Returns {more, hints}; more is 0 where nothing is left to do.
local tenant, id = ARGV[1], ARGV[2]
local hints = {}
if unfinished(tenant, id) then batch_step(tenant, id, hints) end
return { unfinished(tenant, id) and 1 or 0, hints }
