-- What is left of a box, from its announcement and all leases: the same as planner/room.py.
-- Expired leases count until they are swept: their processes may be alive. One that only delivers holds nothing.

local function device_of(gpu, place, foreign_limit)
  local foreign, memory = number(gpu.foreign) or 0, number(gpu.memory) or 0
  local quarantined = redis.call('EXISTS', 'lmms:quarantine:' .. gpu.uuid) == 1
  local words = {}
  for word in string.gmatch(string.gsub(string.lower(gpu.name), '-', ' '), '%S+') do words[word] = true end
  return {
    uuid = gpu.uuid, place = place, words = words, memory = memory, is_slice = gpu.is_slice == true,
    usable = gpu.usable ~= false and not quarantined, clean = foreign <= foreign_limit,
    own = memory - foreign, free = number(gpu.free), idle = true, whole = false,
  }
end

local function take(room, gpus, memory)
  if #gpus == 0 then
    room.cpu_left = room.cpu_left - 1
    return
  end
  room.gpu_jobs_left = room.gpu_jobs_left - 1
  for _, uuid in ipairs(gpus) do
    local device = room.devices[uuid]
    if device then
      device.idle = false
      if memory then device.own = device.own - memory else device.whole = true end
    end
  end
end

local function take_leases(room)
  for _, job in ipairs(redis.call('ZRANGE', leases, 0, -1)) do
    local lease = redis.call('HMGET', lease_key(job), 'box', 'gpus', 'memory', 'delivering')
    if lease[1] == room.box and lease[2] and not lease[4] then
      take(room, list(lease[2]), number(lease[3]))
    end
  end
end

-- nil when the box is away or takes no new work.
local function open_room(box, foreign_limit)
  local told = fields_of('lmms:box:' .. box)
  if told.state ~= 'open' or redis.call('HEXISTS', box_state, box) == 1 then return nil end
  local room = {
    box = box, devices = {}, sorted = {}, shares = told.shares_gpus == '1',
    ends_at = number(told['until']), labels = set(list(told.labels)), environments = set(list(told.environments)),
    cpu_slots = number(told.cpu_slots) or 0, gpu_slots = number(told.gpu_slots) or 0,
  }
  room.cpu_left, room.gpu_jobs_left = room.cpu_slots, room.gpu_slots
  for place, gpu in ipairs(list(told.gpus)) do
    local device = device_of(gpu, place, foreign_limit)
    room.devices[gpu.uuid] = device
    room.sorted[place] = device
  end
  table.sort(room.sorted, function(one, other)
    if one.memory ~= other.memory then return one.memory < other.memory end
    return one.place < other.place
  end)
  take_leases(room)
  return room
end

-- Memory of a shared GPU that a further job could have.
local function left(device)
  if device.whole then return 0 end
  if device.free then return math.min(device.own, device.free) end
  return device.own
end

-- The most GPUs that one job could be given now; what it asks for beyond their number is not looked at.
local function most_gpus(room)
  local most = 0
  for _, device in ipairs(room.sorted) do
    if device.usable and (room.shares or (device.idle and device.clean)) then most = most + 1 end
  end
  return room.gpu_jobs_left > 0 and most or 0
end

-- Whether just these GPUs can be given to a job, whole or as much memory of each; no GPU: a slot.
local function has_room(room, gpus, memory)
  if #gpus == 0 then return room.cpu_left > 0 end
  if room.gpu_jobs_left <= 0 or (memory and not room.shares) then return false end
  for _, uuid in ipairs(gpus) do
    local device = room.devices[uuid]
    if not device or not device.usable then return false end
    if memory then
      if left(device) < memory then return false end
    elseif not (device.idle and device.clean) then
      return false
    end
  end
  return true
end
