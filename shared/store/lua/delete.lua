#!lua flags=allow-oom
-- delete: nothing of the job stays. ARGV: tenant, id. Returns 1, or 0 where there was none.
return remove_job(ARGV[1], ARGV[2]) and 1 or 0
