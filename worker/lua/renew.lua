-- ARGV: job, token, TTL, box, slot, GPUs (JSON), queue, memory, user, estimated_s, since, '1' if it only delivers,
-- when the lease expires as far as its holder knows.
-- Returns {answer, 1 if the lease has given its GPUs back, when it expires}; the answer is 0 (lost), 1 (kept), 2 (kept, and the run is
-- to be cancelled) or 3 (kept, and the part is to be given back: its box is drained).
-- A lease that Redis forgot (a restart may lose its last second) is written again, unless somebody else has taken
-- the job since. Hazard: a network that is mended delivers what was sent before it broke. So nothing is renewed that
-- was released, or later than its holder took it for his.
local job, token, box = ARGV[1], tonumber(ARGV[2]), ARGV[4]

local function write_again()
  if tonumber(redis.call('GET', fence) or 0) < token then redis.call('SET', fence, token) end
  for _, queue in ipairs(queues) do redis.call('LREM', queue, 0, job) end
  redis.call('HDEL', plan_starts, job)
  local lease = {
    box = box, slot = ARGV[5], gpus = ARGV[6], token = token, queue = ARGV[7], memory = ARGV[8], user = ARGV[9],
    estimated_s = ARGV[10], since = ARGV[11],
  }
  if ARGV[12] == '1' then lease.delivering = 1 end
  write_lease(job, lease)
end

local held = redis.call('HMGET', lease_key(job), 'token', 'delivering')
if held[1] and tonumber(held[1]) ~= token then return {0, 0, ARGV[13]} end
if now > tonumber(ARGV[13]) then return {0, 0, ARGV[13]} end
if not held[1] and tonumber(redis.call('GET', released_key(job)) or 0) >= token then return {0, 0, ARGV[13]} end
local delivering = held[2] and 1 or 0
if not held[1] then
  write_again()
  delivering = tonumber(ARGV[12])
end
local expires = string.format('%.3f', now + tonumber(ARGV[3]))
redis.call('ZADD', leases, expires, job)
if is_cancelled(job) then return {2, delivering, expires} end
if delivering == 0 and redis.call('HGET', box_state, box) == 'drained' then return {3, delivering, expires} end
return {1, delivering, expires}
