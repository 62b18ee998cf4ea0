-- What a job asks for, and whether a box has it: the same as planner/demand.py and planner/admission.py.

-- nil for a job that nobody described, or whose description is damaged.
local function need_of(job)
  local told = fields_of(need_key(job))
  if not tonumber(told.gpus) then return nil end
  local words = {}
  for word in string.gmatch(string.gsub(string.lower(told.gpu_type or ''), '-', ' '), '%S+') do
    words[#words + 1] = word
  end
  local boxes = nil
  if told.boxes and told.boxes ~= '' then
    boxes = json_table(told.boxes)
    if not boxes then return nil end
    boxes = set(boxes)
  end
  local labels = json_table((told.labels or '') == '' and '[]' or told.labels)
  if not labels then return nil end
  return {
    gpus = tonumber(told.gpus), memory = number(told.memory), least = number(told.least_memory),
    whole = told.whole_gpus == '1', words = words, labels = labels, boxes = boxes,
    box = told.box or '', environment = told.environment or '',
    user = told.user or '', estimated_s = told.estimated_s or '',
  }
end

local function of_type(device, need)
  if device.is_slice and need.gpus > 1 then return false end -- one process sees one slice
  for _, word in ipairs(need.words) do
    if not device.words[word] then return false end
  end
  return true
end

-- A GPU that does not tell its memory counts as endless.
local function is_large(device, memory)
  return device.memory == 0 or device.memory >= memory
end

local function has_labels(need, room)
  for _, label in ipairs(need.labels) do
    if not room.labels[label] then return false end
  end
  return true
end

local function has_devices(need, room)
  if need.gpus == 0 then return room.cpu_slots > 0 end
  if room.gpu_slots == 0 then return false end
  local found = 0
  for _, device in ipairs(room.sorted) do
    if of_type(device, need) and is_large(device, need.least or 0) then found = found + 1 end
  end
  return found >= need.gpus
end

-- Whether a box, when nothing runs on it, has all that the job asks for.
local function suits(need, room)
  if need.box ~= '' and need.box ~= room.box then return false end
  if need.boxes and not need.boxes[room.box] then return false end
  if need.environment ~= '' and not room.environments[need.environment] then return false end
  return has_labels(need, room) and has_devices(need, room)
end

-- Whether a planned start is still sound.
local function admits(need, room, gpus, memory)
  local distinct = 0
  for uuid in pairs(set(gpus)) do
    distinct = distinct + 1
    if room.devices[uuid] and not of_type(room.devices[uuid], need) then return false end
  end
  return distinct == need.gpus and suits(need, room) and has_room(room, gpus, memory)
end

-- What a driver tells of a card's memory, and an estimate, are not exact.
local SIZE_TOLERANCE = 0.02

local function choose_shared(need, room)
  local best = nil
  for _, device in ipairs(room.sorted) do
    local room_for_it = device.usable and of_type(device, need) and left(device) >= need.memory
    if room_for_it and (not best or left(device) < left(best)) then best = device end
  end
  return best and {best.uuid}
end

-- Without a plan: the smallest GPUs that do, or the fullest of those that are shared. nil: the job does not fit now.
-- An estimate larger than the box's GPUs waits for the planner, which knows whether a larger box exists.
local function choose(need, room)
  if need.gpus == 0 then return {}, nil end
  if need.gpus == 1 and need.memory and need.memory > 0 and not need.whole and room.shares then
    return choose_shared(need, room), need.memory
  end
  local chosen, size = {}, (need.memory or 0) * (1 - SIZE_TOLERANCE)
  for _, device in ipairs(room.sorted) do
    local free = device.usable and device.idle and device.clean
    if free and #chosen < need.gpus and of_type(device, need) and is_large(device, size) then
      chosen[#chosen + 1] = device.uuid
    end
  end
  return #chosen == need.gpus and chosen or nil, nil
end
