-- Small things: logs, figures, time, averages, texts, distances, chance.

local M, _, H, K = ...

local error, ipairs, tostring, type = error, ipairs, tostring, type
local floor, huge = math.floor, math.huge
local sin, cos, asin, sqrt, rad = math.sin, math.cos, math.asin, math.sqrt, math.rad
local find_text, match_text, sub_text = string.find, string.match, string.sub
local text, bad = K.text, K.bad

local LOGS_MAX, LOG_BYTES_MAX, METRICS_MAX, METRIC_NAME_MAX = 50, 256, 50, 64

local function log_as(level)
  H["log_" .. level] = function(message)
    local of = type(message)
    -- Tables and functions print as addresses, which differ from run to run.
    local line = (of == "table" or of == "function") and of or tostring(message)
    if #M.logs < LOGS_MAX then M.logs[#M.logs + 1] = { level = level, message = sub_text(line, 1, LOG_BYTES_MAX) } end
  end
end
log_as("info")
log_as("warn")
log_as("error")
log_as("debug")

-- A figure of the policy's own, at most 50 a decision; more are dropped.
function H.emit_metric(name, value)
  text(name, 1, "emit_metric")
  if #name > METRIC_NAME_MAX or not match_text(name, "^[a-z][a-z0-9_]*$") then
    error("bad argument #1 to 'emit_metric' (a name of a-z, 0-9 and _ expected)", 2)
  end
  if type(value) ~= "number" then bad(2, "emit_metric", "number", value) end
  if value ~= value or value == huge or value == -huge then return false end
  if #M.emitted >= METRICS_MAX then return false end
  M.emitted[#M.emitted + 1] = { name = name, value = value }
  return true
end

function H.now() return M.now end

function H.elapsed_since(instant_ms)
  if type(instant_ms) ~= "number" then bad(1, "elapsed_since", "number", instant_ms) end
  local passed = M.now - instant_ms
  return passed > 0 and passed or 0
end

-- The numbers of a list, or the arguments themselves.
local function numbers(name, first, ...)
  local list = type(first) == "table" and first or { first, ... }
  for at, value in ipairs(list) do
    if type(value) ~= "number" then bad(at, name, "number", value) end
  end
  return list
end

function H.average(...)
  local list, sum = numbers("average", ...), 0
  for _, value in ipairs(list) do sum = sum + value end
  return #list > 0 and sum / #list or nil
end

function H.max(...)
  local best
  for _, value in ipairs(numbers("max", ...)) do
    if best == nil or value > best then best = value end
  end
  return best
end

function H.min(...)
  local best
  for _, value in ipairs(numbers("min", ...)) do
    if best == nil or value < best then best = value end
  end
  return best
end

function H.string_contains(whole_text, part)
  return find_text(text(whole_text, 1, "string_contains"), text(part, 2, "string_contains"), 1, true) ~= nil
end

function H.string_starts_with(whole_text, start)
  text(whole_text, 1, "string_starts_with")
  return sub_text(whole_text, 1, #text(start, 2, "string_starts_with")) == start
end

local EARTH_RADIUS_KM = 6371.0088

-- Great circle between (lat, lon, lat, lon) in degrees or two geos, in km to the metre, so that all machines agree.
-- A place that is not known is infinitely far away.
function H.distance(lat, lon, to_lat, to_lon)
  if type(lat) == "table" or type(lon) == "table" or lat == nil then
    local from, to = lat, lon
    if type(from) ~= "table" or type(to) ~= "table" then return huge end
    lat, lon, to_lat, to_lon = from.lat, from.lon, to.lat, to.lon
  end
  for _, value in ipairs({ lat or false, lon or false, to_lat or false, to_lon or false }) do
    if type(value) ~= "number" or value ~= value or value == huge or value == -huge then return huge end
  end
  local up, across = sin(rad(to_lat - lat) / 2), sin(rad(to_lon - lon) / 2)
  local part = up * up + cos(rad(lat)) * cos(rad(to_lat)) * across * across
  local km = 2 * EARTH_RADIUS_KM * asin(sqrt(part < 1 and part or 1))
  return floor(km * 1000 + 0.5) / 1000
end

function H.random(low, high)
  if low ~= nil and type(low) ~= "number" then bad(1, "random", "number", low) end
  if high ~= nil and type(high) ~= "number" then bad(2, "random", "number", high) end
  if low ~= nil and not ((high or low) >= (high and low or 1) and (high or low) < 2 ^ 53 and low > -2 ^ 53) then
    error("bad argument to 'random' (interval is empty)", 2)
  end
  return M.random(low and floor(low), high and floor(high))
end
