"""The Lua scripts that write leases: each runs in Redis as one step. Called by `worker.leases` alone.

Keys: ``lmms:leases`` (sorted set, score = expiry by Redis TIME), ``lmms:fence`` (counter of tokens),
``lmms:lease:<job>`` (hash), ``lmms:need:<job>`` (hash, written with the job), ``lmms:cancel`` (set of run ids).
An expired lease still holds its GPUs and its job until it is swept: its processes may be alive until then.
"""

from __future__ import annotations

_NOW = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
"""

_LEASE_KEYS = """
local leases, fence, cancel = KEYS[1], KEYS[2], KEYS[3]
local function lease_key(job) return 'lmms:lease:' .. job end
local function need_key(job) return 'lmms:need:' .. job end
"""

#: KEYS: leases, fence, cancel, queues…   ARGV: box, slot, fewest GPUs, most GPUs, the box's GPUs (JSON), TTL,
#: prefix of RQ's job keys, jobs to look at before all others (JSON: this box has results of them).
#: Returns nothing, or {job, queue, token, GPUs (JSON)}.
CLAIM = (
    _NOW
    + _LEASE_KEYS
    + """
local box, slot, fewest, most, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[6])
local job_prefix, first = ARGV[7], cjson.decode(ARGV[8])

local taken, free = {}, {}
for _, job in ipairs(redis.call('ZRANGE', leases, 0, -1)) do
  local lease = redis.call('HMGET', lease_key(job), 'box', 'gpus')
  if lease[1] == box and lease[2] then
    for _, gpu in ipairs(cjson.decode(lease[2])) do taken[gpu] = true end
  end
end
for _, gpu in ipairs(cjson.decode(ARGV[5])) do
  if not taken[gpu] then free[#free + 1] = gpu end
end

local function fits(need)
  return need >= fewest and need <= most and need <= #free
end

local function claimed(queue, job)
  local need = tonumber(redis.call('HGET', need_key(job), 'gpus') or 0) or 0
  if not fits(need) then return false end
  if redis.call('EXISTS', job_prefix .. job) == 0 then
    redis.call('LREM', queue, 0, job)
    return false
  end
  local run = string.match(job, '^[^-]*')
  if redis.call('EXISTS', lease_key(job)) == 1 or redis.call('SISMEMBER', cancel, run) == 1 then return false end
  local gpus = '[]'
  if need > 0 then gpus = cjson.encode({unpack(free, 1, need)}) end
  local token = redis.call('INCR', fence)
  redis.call('LREM', queue, 0, job)
  redis.call('HSET', lease_key(job), 'box', box, 'slot', slot, 'gpus', gpus, 'token', token,
             'since', now, 'queue', queue)
  redis.call('ZADD', leases, now + ttl, job)
  return {job, queue, token, gpus}
end

for at = 4, #KEYS do
  for _, job in ipairs(first) do
    if redis.call('LPOS', KEYS[at], job) then
      local claim = claimed(KEYS[at], job)
      if claim then return claim end
    end
  end
end
for at = 4, #KEYS do
  for _, job in ipairs(redis.call('LRANGE', KEYS[at], 0, -1)) do
    local claim = claimed(KEYS[at], job)
    if claim then return claim end
  end
end
return false
"""
)

#: KEYS: leases, fence, cancel, queues…   ARGV: job, token, TTL, box, slot, GPUs (JSON), queue.
#: Returns 0 (lost), 1 (kept) or 2 (kept, and the run is to be cancelled).
#: A lease that Redis forgot (a restart may lose its last second) is written again, unless somebody else has taken
#: the job since. Hazard: so nobody may renew a lease after releasing it, or later than its TTL.
RENEW = (
    _NOW
    + _LEASE_KEYS
    + """
local job, token = ARGV[1], tonumber(ARGV[2])
local held = redis.call('HGET', lease_key(job), 'token')
if held and tonumber(held) ~= token then return 0 end
if not held then
  if tonumber(redis.call('GET', fence) or 0) < token then redis.call('SET', fence, token) end
  for at = 4, #KEYS do redis.call('LREM', KEYS[at], 0, job) end
  redis.call('HSET', lease_key(job), 'box', ARGV[4], 'slot', ARGV[5], 'gpus', ARGV[6], 'token', token,
             'since', now, 'queue', ARGV[7])
end
redis.call('ZADD', leases, now + tonumber(ARGV[3]), job)
if redis.call('SISMEMBER', cancel, string.match(job, '^[^-]*')) == 1 then return 2 end
return 1
"""
)

#: KEYS: leases, fence, cancel, queues…   ARGV: job, token, prefix of RQ's job keys, '1' only when it has expired.
#: Returns 0 (not ours any more), 1 (released, nothing left to do) or 2 (released, the job waits in its queue).
#: A job whose worker did not say that it is done goes back to the front of its queue; one that the server queued
#: again meanwhile stays there. RQ's own bookkeeping of the ended job must not make a waiting one expire.
RELEASE = (
    _NOW
    + _LEASE_KEYS
    + """
local job, job_key = ARGV[1], ARGV[3] .. ARGV[1]
local lease = redis.call('HMGET', lease_key(job), 'token', 'queue', 'done')
if lease[1] ~= ARGV[2] then return 0 end
if ARGV[4] == '1' and tonumber(redis.call('ZSCORE', leases, job) or 0) > now then return 0 end
redis.call('DEL', lease_key(job))
redis.call('ZREM', leases, job)
if redis.call('EXISTS', job_key) == 0 then return 1 end
local waiting = false
for at = 4, #KEYS do
  if redis.call('LPOS', KEYS[at], job) then waiting = true end
end
if not waiting and not lease[3] and lease[2] and lease[2] ~= '' then
  redis.call('LPUSH', lease[2], job)
  waiting = true
end
if not waiting then return 1 end
redis.call('PERSIST', job_key)
redis.call('HSET', job_key, 'status', 'queued')
return 2
"""
)

#: KEYS: leases, fence, cancel   ARGV: job, token.   Notes that the job need not go back to its queue.
FINISH = (
    _LEASE_KEYS
    + """
if redis.call('HGET', lease_key(ARGV[1]), 'token') ~= ARGV[2] then return 0 end
redis.call('HSET', lease_key(ARGV[1]), 'done', 1)
return 1
"""
)

#: KEYS: leases, fence   ARGV: smallest value that the counter may have from now on.
RAISE_FENCE = """
if tonumber(redis.call('GET', KEYS[2]) or 0) < tonumber(ARGV[1]) then redis.call('SET', KEYS[2], ARGV[1]) end
return redis.call('GET', KEYS[2])
"""
