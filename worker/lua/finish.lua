-- ARGV: job, token.   Notes that the job need not go back to its queue.
if redis.call('HGET', lease_key(ARGV[1]), 'token') ~= ARGV[2] then return 0 end
redis.call('HSET', lease_key(ARGV[1]), 'done', 1)
return 1
