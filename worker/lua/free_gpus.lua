-- ARGV: job, token, channel to tell.   The lease lives on without its GPUs, while its last results are delivered.
if redis.call('HGET', lease_key(ARGV[1]), 'token') ~= ARGV[2] then return 0 end
redis.call('HSET', lease_key(ARGV[1]), 'gpus', '[]', 'memory', '', 'delivering', 1)
redis.call('PUBLISH', ARGV[3], ARGV[1])
return 1
