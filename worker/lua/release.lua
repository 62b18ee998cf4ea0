-- ARGV: job, token, prefix of RQ's job keys, '1' to release it only when it has expired, channel to tell.
-- Returns 0 (not ours any more), 1 (released, nothing left to do) or 2 (released, the job waits in its queue).
-- A job whose worker did not say that it is done goes back to the front of its queue; one that the server queued
-- again meanwhile stays there. RQ's own bookkeeping of the ended job must not make a waiting one expire.
local job, job_key = ARGV[1], ARGV[3] .. ARGV[1]

local function waits()
  for _, queue in ipairs(queues) do
    if redis.call('LPOS', queue, job) then return true end
  end
  return false
end

local lease = redis.call('HMGET', lease_key(job), 'token', 'queue', 'done')
if lease[1] ~= ARGV[2] then return 0 end
if ARGV[4] == '1' and tonumber(redis.call('ZSCORE', leases, job) or 0) > now then return 0 end
redis.call('DEL', lease_key(job))
redis.call('SET', released_key(job), lease[1], 'EX', 600)
redis.call('ZREM', leases, job)
redis.call('PUBLISH', ARGV[5], job)

local known = redis.call('EXISTS', job_key) == 1
local waiting = known and waits()
if known and not waiting and not lease[3] and lease[2] and lease[2] ~= '' then
  redis.call('LPUSH', lease[2], job)
  waiting = true
end
if not waiting then
  redis.call('DEL', need_key(job))
  return 1
end
redis.call('PERSIST', job_key)
redis.call('HSET', job_key, 'status', 'queued')
return 2
