--- What leaves the sandbox: a decision, copied field by field, and packed as MessagePack here, in Lua.
--
-- Only known fields are copied, with raw access, so that no metamethod of the policy's runs; what comes out is plain
-- text and numbers. One string crosses to the process around this Lua, which passes it on unread: nothing in there ever
-- touches a table of the policy's. The queen checks all of it again, since it does not trust this side at all.

local error, pcall, rawget, rawlen, type = error, pcall, rawget, rawlen, type
local metatable_of = debug.getmetatable
local char, find, gsub, match, pack, sub = string.char, string.find, string.gsub, string.match, string.pack, string.sub
local concat, floor, tointeger, huge = table.concat, math.floor, math.tointeger, math.huge
local is_utf8, text_of = utf8.len, tostring

local limits = ...
local ID_BYTES_MAX = limits.id_bytes_max
local REASON_BYTES_MAX = limits.log_bytes_max
local ACTIONS_MAX = limits.decisions_max
local ERROR_BYTES_MAX = limits.error_bytes_max
local RETRY_MS_MAX = limits.retry_ms_max

local border = {}

-- packing -------------------------------------------------------------------------------------------------------------

local put

-- What small texts, lists and maps begin with, made once: a policy that waits is answered with little else.
local TEXT_HEADS, LIST_HEADS, MAP_HEADS = {}, {}, {}
for n = 0, 31 do TEXT_HEADS[n] = char(0xa0 | n) end
for n = 0, 15 do LIST_HEADS[n], MAP_HEADS[n] = char(0x90 | n), char(0x80 | n) end

local function put_text(out, value)
  local n, at = #value, #out
  if n < 32 then
    out[at + 1], out[at + 2] = TEXT_HEADS[n], value
  else
    out[at + 1] = pack(">Bs4", 0xdb, value)
  end
end

local function put_number(out, value)
  local whole = tointeger(value)
  if whole == nil then
    out[#out + 1] = pack(">Bd", 0xcb, value)
  elseif whole >= 0 and whole < 128 then
    out[#out + 1] = char(whole)
  else
    out[#out + 1] = pack(">Bi8", 0xd3, whole)
  end
end

--- A map is given as {keys, values}, so that its order is the one it was written in.
local function put_map(out, map)
  local keys, values = map.keys, map.values
  out[#out + 1] = MAP_HEADS[#keys] or pack(">BI2", 0xde, #keys)
  for i = 1, #keys do
    put_text(out, keys[i])
    put(out, values[i])
  end
end

function put(out, value)
  local kind = type(value)
  if kind == "string" then
    put_text(out, value)
  elseif kind == "number" then
    put_number(out, value)
  elseif kind == "nil" then
    out[#out + 1] = "\xc0"
  elseif value.keys then
    put_map(out, value)
  else
    out[#out + 1] = LIST_HEADS[#value] or pack(">BI2", 0xdc, #value)
    for i = 1, #value do put(out, value[i]) end
  end
end

-- copying -------------------------------------------------------------------------------------------------------------

local function refuse(text) error({ malformed = text }, 0) end

local function plain(value, name)
  if value == nil then refuse(name .. " is missing") end
  if type(value) ~= "table" then refuse(name .. " is a " .. type(value) .. ", not a table") end
  if metatable_of(value) ~= nil then refuse(name .. " has a metatable") end
  return value
end

--- Return a text as it may be shown: no control characters, valid UTF-8, bounded.
local function presentable(text, bytes_max)
  text = gsub(sub(text, 1, bytes_max), "[%z\1-\8\11-\31\127]", "?")
  if not is_utf8(text) then text = gsub(text, "[\128-\255]", "?") end
  return text
end

local function id(value, name)
  if type(value) ~= "string" then refuse(name .. " is a " .. type(value) .. ", not a string") end
  if #value == 0 or #value > ID_BYTES_MAX then refuse(name .. " is not 1 to " .. ID_BYTES_MAX .. " bytes long") end
  if find(value, "[%z\1-\31\127]") or not is_utf8(value) then refuse(name .. " is no readable text") end
  return value
end

local function gpu_id(value, name)
  if type(value) == "number" then
    local index = tointeger(value)
    if index == nil or index < 0 or index > 1023 then refuse(name .. " is no index of a GPU") end
    return text_of(index)
  end
  return id(value, name)
end

local function reason(value, name)
  if type(value) ~= "string" then refuse(name .. " is a " .. type(value) .. ", not a string") end
  return presentable(value, REASON_BYTES_MAX)
end

local function delay(value, name)
  if type(value) ~= "number" or value ~= value or value < 0 or value == huge then
    refuse(name .. " is no number of milliseconds")
  end
  return value > RETRY_MS_MAX and RETRY_MS_MAX or floor(value)
end

local START_FIELDS = { { "model_ref", id, true }, { "pool_id", id }, { "gpu_id", gpu_id } }

--- Copy the known fields of a table, in the order of `fields`.
local function copied(source, fields, into)
  for i = 1, #fields do
    local name, copy, required = fields[i][1], fields[i][2], fields[i][3]
    local value = rawget(source, name)
    if value ~= nil then
      into.keys[#into.keys + 1], into.values[#into.values + 1] = name, copy(value, name)
    elseif required then
      refuse(name .. " is missing")
    end
  end
  return into
end

local function start(value, name)
  return copied(plain(value, name), START_FIELDS, { keys = {}, values = {} })
end

local REASON = { "reason", reason }
local FIELDS = {
  dispatch = { { "job_id", id, true }, { "worker_id", id, true }, REASON },
  wait = { REASON, { "retry_after_ms", delay } },
  start_worker = { { "start_worker", start, true }, { "job_id", id }, REASON },
  evict = { { "evict_worker_id", id, true }, REASON },
  preempt = { { "job_id", id, true }, { "for_job_id", id, true }, REASON },
  reject = { { "job_id", id, true }, REASON },
}

local function simple(decision, name)
  local action = rawget(plain(decision, name), "action")
  if action == nil then refuse("action is missing") end
  if type(action) ~= "string" then refuse("action is a " .. type(action) .. ", not a string") end
  local fields = FIELDS[action]
  if fields == nil then
    if action == "batch" then refuse("a batch cannot hold another batch") end
    refuse("unknown action '" .. presentable(action, 40) .. "'")
  end
  return copied(decision, fields, { keys = { "action" }, values = { action } })
end

--- Return the decisions of a returned value: one, or those of a batch.
local function decisions(value)
  plain(value, "the decision")
  if rawget(value, "action") ~= "batch" then return { simple(value, "the decision") } end
  local actions = plain(rawget(value, "actions"), "actions")
  local n = rawlen(actions)
  if n > ACTIONS_MAX then refuse("actions has more than " .. ACTIONS_MAX .. " entries") end
  local all = {}
  for i = 1, n do all[i] = simple(rawget(actions, i), "actions[" .. i .. "]") end
  return all
end

--- Copy what a policy returned.
-- @return the decisions; or nil and what is wrong
function border.extract(value)
  local ok, result = pcall(decisions, value)
  if ok then return result end
  if type(result) == "table" and result.malformed then return nil, result.malformed end
  error(result, 0)
end

--- Return the text of an error and the line of the policy that it names. Error values that are no strings are not
-- looked into: their `__tostring` is the policy's.
function border.fault(value)
  if type(value) ~= "string" then return "the error is a " .. type(value) .. " value", nil end
  local line = match(value, "^policy:(%d+):")
  local text = gsub(sub(value, 1, ERROR_BYTES_MAX), "^policy:%d+: ", "")
  text = gsub(text, "^[%l/]+%.lua:%d+: ", "")
  return presentable(text, ERROR_BYTES_MAX), line and tointeger(line)
end

--- Pack a reply: [status, text, line, decisions, logs, metrics, state, instructions]. The instructions come last and
-- always in nine bytes: how many they are depends on what was looked up before, all the rest on the question alone.
-- @param logs     {level, message} each
-- @param metrics  {name, value} each
-- @param state    what `context.state` holds, packed, if it changed
function border.pack(status, text, line, decided, logs, metrics, instructions, state)
  local lines, figures = {}, {}
  for i = 1, #logs do lines[i] = { logs[i].level, presentable(logs[i].message, REASON_BYTES_MAX) } end
  for i = 1, #metrics do figures[i] = { presentable(metrics[i].name, ID_BYTES_MAX), metrics[i].value } end
  local out = {}
  out[1] = "\x98"
  put(out, status)
  put(out, text)
  put(out, line)
  put(out, decided)
  put(out, lines)
  put(out, figures)
  out[#out + 1] = state and pack(">Bs4", 0xc6, state) or "\xc0"
  out[#out + 1] = pack(">Bi8", 0xd3, instructions)
  return concat(out)
end

return border
