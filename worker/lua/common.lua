-- The clock, the keys and how to read them: at the head of every script.
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6

local leases, fence, cancel, plan_starts, box_state = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local queues = {unpack(KEYS, 6)}

local function lease_key(job) return 'lmms:lease:' .. job end
local function released_key(job) return 'lmms:released:' .. job end
local function need_key(job) return 'lmms:need:' .. job end

local function is_cancelled(job)
  return redis.call('SISMEMBER', cancel, string.match(job, '^[^-]*')) == 1
end

-- The hash as a table; an empty one where there is none.
local function fields_of(key)
  local flat, fields = redis.call('HGETALL', key), {}
  for at = 1, #flat, 2 do fields[flat[at]] = flat[at + 1] end
  return fields
end

-- A JSON list or object, or nil where it is damaged: one bad entry must not stop every claim.
local function json_table(text)
  local sound, value = pcall(cjson.decode, text)
  return sound and type(value) == 'table' and value or nil
end

-- A JSON list, or an empty one where the field is missing, empty or damaged.
local function list(text)
  if not text or text == '' then return {} end
  return json_table(text) or {}
end

-- cjson would write an empty list as an object.
local function list_json(items)
  if #items == 0 then return '[]' end
  return cjson.encode(items)
end

local function set(items)
  local found = {}
  for _, item in ipairs(items) do found[item] = true end
  return found
end

-- nil for what is missing or null; never 0.
local function number(value)
  if value == nil or value == '' or value == cjson.null then return nil end
  return tonumber(value)
end

local function write_lease(job, lease)
  local flat = {}
  for name, value in pairs(lease) do
    flat[#flat + 1] = name
    flat[#flat + 1] = value
  end
  redis.call('HSET', lease_key(job), unpack(flat))
end
