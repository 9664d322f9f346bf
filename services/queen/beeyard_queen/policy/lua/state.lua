--- `context.state` as bytes: what a policy keeps for itself from one decision to the next.
--
-- After a decision the table is packed, as MessagePack; a host that takes over unpacks it. What cannot be packed is an
-- error of the policy and is never dropped silently. Integers stay integers and floats floats, keys are written in
-- order, so equal tables give equal bytes on any machine.
--
-- Every access is raw: the table is the policy's, and nothing of the policy's may run in here.

local error, next, pcall, type = error, next, pcall, type
local metatable_of = debug.getmetatable
local char, pack, sub, unpack = string.char, string.pack, string.sub, string.unpack
local concat, sort = table.concat, table.sort
local mathtype, is_utf8 = math.type, utf8.len

local limits = ...
local BYTES_MAX, DEPTH_MAX = limits.state_bytes_max, limits.state_depth_max

local state = {}

-- packing -------------------------------------------------------------------------------------------------------------

-- The same object always, so that it can be told from an error of another kind.
local refusal = {}

local function refuse(text)
  refusal.text = text
  error(refusal, 0)
end

local function before(a, b)
  local left, right = type(a), type(b)
  if left ~= right then return left < right end
  return a < b
end

local function add(out, text)
  out.bytes = out.bytes + #text
  if out.bytes > BYTES_MAX then refuse("holds more than " .. BYTES_MAX .. " bytes") end
  out[#out + 1] = text
end

local function keys_of(map)
  local keys, n = {}, 0
  for key in next, map do
    n = n + 1
    if n > BYTES_MAX // 2 then refuse("holds more than " .. BYTES_MAX .. " bytes") end
    if type(key) ~= "string" and mathtype(key) ~= "integer" then
      refuse("has a key that is a " .. (mathtype(key) or type(key)) .. ", not a text or a whole number")
    end
    keys[n] = key
  end
  sort(keys, before)
  return keys
end

local put

local function put_table(out, map, depth)
  if metatable_of(map) ~= nil then refuse("holds a table with a metatable; of a record keep the id") end
  if depth > DEPTH_MAX then refuse("holds tables more than " .. DEPTH_MAX .. " deep") end
  local keys = keys_of(map)
  add(out, pack(">BI4", 0xdf, #keys))
  for at = 1, #keys do
    put(out, keys[at], depth)
    put(out, map[keys[at]], depth)
  end
end

function put(out, value, depth)
  local kind = type(value)
  if kind == "string" then
    add(out, pack(">Bs4", is_utf8(value) and 0xdb or 0xc6, value))
  elseif mathtype(value) == "integer" then
    add(out, value >= 0 and value < 128 and char(value) or pack(">Bi8", 0xd3, value))
  elseif kind == "number" then
    -- One NaN for all machines: its bits differ between processors.
    add(out, value == value and pack(">Bd", 0xcb, value) or "\xcb\x7f\xf8\0\0\0\0\0\0")
  elseif kind == "boolean" then
    add(out, value and "\xc3" or "\xc2")
  elseif kind == "table" then
    put_table(out, value, depth + 1)
  else
    refuse("holds a " .. kind)
  end
end

--- Pack a table.
-- @return its bytes, the empty text for an empty table; or nil and why it cannot be kept
function state.pack(map)
  if next(map) == nil and metatable_of(map) == nil then return "" end
  local out = { bytes = 0 }
  local ok, fault = pcall(put, out, map, 0)
  if ok then return concat(out) end
  if fault ~= refusal then error(fault, 0) end
  return nil, refusal.text
end

-- unpacking -----------------------------------------------------------------------------------------------------------

local take

local function take_table(bytes, at)
  local n, map = nil, {}
  n, at = unpack(">I4", bytes, at)
  for _ = 1, n do
    local key, value
    key, at = take(bytes, at)
    value, at = take(bytes, at)
    map[key] = value
  end
  return map, at
end

local FORMS = {
  [0xdb] = function(bytes, at) return unpack(">s4", bytes, at) end,
  [0xc6] = function(bytes, at) return unpack(">s4", bytes, at) end,
  [0xd3] = function(bytes, at) return unpack(">i8", bytes, at) end,
  [0xcb] = function(bytes, at) return unpack(">d", bytes, at) end,
  [0xc3] = function(_, at) return true, at end,
  [0xc2] = function(_, at) return false, at end,
  [0xdf] = take_table,
}

function take(bytes, at)
  local tag = unpack("B", bytes, at)
  if tag < 128 then return tag, at + 1 end
  local form = FORMS[tag] or error("context.state was not packed here: byte " .. tag, 0)
  return form(bytes, at + 1)
end

--- Return the table that was packed.
function state.unpack(bytes)
  if bytes == "" then return {} end
  if #bytes > BYTES_MAX or sub(bytes, 1, 1) ~= "\xdf" then error("context.state was not packed here", 0) end
  return (take(bytes, 1))
end

return state
