-- ARGV: smallest value that the counter may have from now on.
if tonumber(redis.call('GET', fence) or 0) < tonumber(ARGV[1]) then redis.call('SET', fence, ARGV[1]) end
return redis.call('GET', fence)
