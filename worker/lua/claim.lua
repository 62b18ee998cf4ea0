-- ARGV: box, slot, '1' for a slot with GPUs, TTL, prefix of RQ's job keys, jobs to look at before all others (JSON),
-- memory that others may use on a GPU that is given whole, age in seconds up to which a plan is followed, seconds
-- that a job is taken to run when nothing is known.
-- Returns nothing, or {job, queue, token, GPUs (JSON), memory, user, estimated_s, since}.
local box, slot, with_gpus, ttl, job_prefix = ARGV[1], ARGV[2], ARGV[3] == '1', tonumber(ARGV[4]), ARGV[5]

-- A server that has just restarted may have lost its last second: whoever holds a lease writes it again first.
local function claims_are_open()
  local running = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
  local known = redis.call('GET', 'lmms:server-run')
  if running ~= known then
    local pause = known and ttl or 3
    redis.call('SET', 'lmms:server-run', running)
    redis.call('SET', 'lmms:claims-from', string.format('%.3f', now + pause), 'PX', math.ceil(pause * 1000))
  end
  return redis.call('EXISTS', 'lmms:claims-from') == 0
end

-- What the job needs, if it can be started now; one that is gone or that nobody described leaves its queue.
local function startable(queue, job)
  local need = need_of(job)
  if not need or redis.call('EXISTS', job_prefix .. job) == 0 then
    redis.call('LREM', queue, 0, job)
    redis.call('HDEL', plan_starts, job)
    return nil
  end
  if redis.call('EXISTS', lease_key(job)) == 1 or is_cancelled(job) then return nil end
  if with_gpus ~= (need.gpus > 0) then return nil end
  return need
end

local function claim(queue, job, need, gpus, memory)
  local lease = {
    box = box, slot = slot, gpus = list_json(gpus), token = redis.call('INCR', fence),
    since = string.format('%.3f', now), queue = queue, memory = memory and string.format('%.0f', memory) or '',
    user = need.user, estimated_s = need.estimated_s,
  }
  redis.call('LREM', queue, 0, job)
  redis.call('HDEL', plan_starts, job)
  write_lease(job, lease)
  redis.call('ZADD', leases, now + ttl, job)
  return {job, queue, lease.token, lease.gpus, lease.memory, lease.user, lease.estimated_s, lease.since}
end

local function queue_of(job)
  for _, queue in ipairs(queues) do
    if redis.call('LPOS', queue, job) then return queue end
  end
end

-- Whether the box is still there when the job is likely to be done; of some jobs that is not known.
local function in_time(need, room)
  return not room.ends_at or now + (number(need.estimated_s) or tonumber(ARGV[9])) <= room.ends_at
end

local function claim_planned(room)
  local starts, jobs = fields_of(plan_starts), {}
  for job in pairs(starts) do jobs[#jobs + 1] = job end
  table.sort(jobs)
  for _, job in ipairs(jobs) do
    local start = json_table(starts[job])
    local gpus = start and start.box == box and type(start.gpus) == 'table' and start.gpus
    local queue = gpus and queue_of(job)
    local need = queue and startable(queue, job)
    local memory = start and number(start.memory)
    local sound = need and in_time(need, room) and admits(need, room, gpus, memory)
    if sound then return claim(queue, job, need, gpus, memory) end
  end
  return false
end

-- `most` is known beforehand: what a full box cannot take is passed over at the price of one look.
local function claim_fitting(room, queue, job, most)
  local gpus_needed = number(redis.call('HGET', need_key(job), 'gpus'))
  if gpus_needed and (gpus_needed > most or with_gpus ~= (gpus_needed > 0)) then return nil end
  local need = startable(queue, job)
  if not need or not suits(need, room) or not in_time(need, room) then return nil end
  local gpus, memory = choose(need, room)
  if gpus and has_room(room, gpus, memory) then return claim(queue, job, need, gpus, memory) end
end

local function claim_greedily(room)
  local most = most_gpus(room)
  for _, queue in ipairs(queues) do
    for _, job in ipairs(list(ARGV[6])) do
      local claimed = redis.call('LPOS', queue, job) and claim_fitting(room, queue, job, most)
      if claimed then return claimed end
    end
  end
  for _, queue in ipairs(queues) do
    for _, job in ipairs(redis.call('LRANGE', queue, 0, -1)) do
      local claimed = claim_fitting(room, queue, job, most)
      if claimed then return claimed end
    end
  end
  return false
end

if not claims_are_open() then return false end
local room = open_room(box, tonumber(ARGV[7]))
if not room then return false end
local planned_at = number(redis.call('GET', 'lmms:plan:at'))
if planned_at and now - planned_at <= tonumber(ARGV[8]) then return claim_planned(room) end
return claim_greedily(room)
