--- The parts of Lua's library that a policy gets in another form, each because of what the original allows.
--
-- Three reasons recur. A call into C cannot be stopped by the hook, so its work is bounded before it starts, or looked
-- at when it is done. A result must not differ between machines or runs: no addresses, no order of a hash, no clock, no
-- chance. And nothing may reach behind a read-only view. `allowlist.txt` says which names come from here.

local guard, limits = ...

local error, type, select, next, rawset = error, type, select, next, rawset
local getmetatable, setmetatable, tostring = getmetatable, setmetatable, tostring
local metatable_of = debug.getmetatable     -- sees what a `__metatable` field hides
local rawget = rawget
local floor, tointeger = math.floor, math.tointeger
local byte, find, format, gmatch, gsub, match = string.byte, string.find, string.format, string.gmatch, string.gsub, string.match
local rep, sub = string.rep, string.sub
local concat, insert, move, remove, sort, unpack = table.concat, table.insert, table.move, table.remove, table.sort, table.unpack

local STRING_BYTES_MAX = limits.string_bytes_max      -- what string.rep may make
local PATTERN_BYTES_MAX = limits.pattern_bytes_max
local PATTERN_WORK_MAX = limits.pattern_work_max      -- steps of the matcher in C
local MOVE_MAX = limits.string_bytes_max
local LONG = 10000      -- elements or bytes after which a call in C is worth a look at the clock
local LOG_LINES_MAX, LOG_BYTES_MAX = limits.log_lines_max, limits.log_bytes_max

local library = { math = {}, os = {}, string = {}, table = {} }

-- One NaN for all machines: its sign differs between processors, and would be printed.
local NAN = 0 / 0
if sub(format("%f", NAN), 1, 1) == "-" then NAN = -NAN end

-- tables and metatables ---------------------------------------------------------------------------------------------

function library.getmetatable(value)
  if type(value) == "table" then return getmetatable(value) end
  return nil
end

function library.setmetatable(t, mt)
  if type(t) ~= "table" then
    error("bad argument #1 to 'setmetatable' (table expected, got " .. type(t) .. ")", 2)
  end
  if mt ~= nil and type(mt) ~= "table" then
    error("bad argument #2 to 'setmetatable' (nil or table expected)", 2)
  end
  for _, name in next, { "__gc", "__close", "__mode" } do
    if mt ~= nil and rawget(mt, name) ~= nil then error("a policy cannot have " .. name, 2) end
  end
  local present = metatable_of(t)
  if present ~= nil and rawget(present, "__metatable") ~= nil then error("cannot change a protected metatable", 2) end
  return setmetatable(t, mt)
end

function library.rawset(t, key, value)
  if type(t) ~= "table" then error("bad argument #1 to 'rawset' (table expected, got " .. type(t) .. ")", 2) end
  if metatable_of(t) ~= nil then error("rawset: the table has a metatable", 2) end
  return rawset(t, key, value)
end

local RANK = { boolean = 1, number = 2, string = 3 }

local function precedes(a, b)
  local type_a, type_b = type(a), type(b)
  if type_a ~= type_b then return RANK[type_a] < RANK[type_b] end
  if type_a == "boolean" then return b and not a end
  return a < b
end

--- Return the keys of a table in the one order that all machines agree on.
local function ordered_keys(t, name)
  local keys, n = {}, 0
  for key in next, t do
    if RANK[type(key)] == nil then error(name .. ": keys of type " .. type(key) .. " have no order", 3) end
    n = n + 1
    keys[n] = key
  end
  -- Lua's own sort: no two keys tie, so its choice of a pivot cannot show.
  if n > 1 then sort(keys, precedes) end
  return keys
end

function library.pairs(t)
  local mt = metatable_of(t)
  local own = type(mt) == "table" and rawget(mt, "__pairs")
  if own then return own(t) end
  if type(t) ~= "table" then error("bad argument #1 to 'pairs' (table expected, got " .. type(t) .. ")", 2) end
  local keys, i = ordered_keys(t, "pairs"), 0
  return function()
    repeat
      i = i + 1
      local key = keys[i]
      if key == nil then return nil end
      local value = t[key]     -- may have been removed on the way
      if value ~= nil then return key, value end
    until false
  end, t, nil
end

function library.next(t, key)
  if key ~= nil then error("next(t, key) has no order: use pairs", 2) end
  local step, state, first = library.pairs(t)
  return step(state, first)
end

-- text --------------------------------------------------------------------------------------------------------------

function library.tostring(value)
  local kind = type(value)
  if kind == "table" then
    local mt = metatable_of(value)
    local own = mt ~= nil and rawget(mt, "__tostring")
    if own then return own(value) end
    return "table"
  elseif kind == "function" or kind == "userdata" or kind == "thread" then
    return kind
  elseif value ~= value then
    return "nan"
  end
  return tostring(value)
end

function library.string.format(template, ...)
  if type(template) == "string" and find(gsub(template, "%%%%", ""), "%%[^%a]*p") then
    error("bad argument #1 to 'format' (a policy sees no addresses: '%p')", 2)
  end
  local n = select("#", ...)
  local arguments = { ... }
  for i = 1, n do
    local value = arguments[i]
    local kind = type(value)
    if value ~= value then
      arguments[i] = NAN
    elseif kind == "table" or kind == "function" or kind == "userdata" then
      arguments[i] = library.tostring(value)
    end
  end
  return format(template, unpack(arguments, 1, n))
end

function library.string.rep(s, n, separator)
  local count = tointeger(n)
  local text = type(s) == "number" and tostring(s) or s
  if count == nil or type(text) ~= "string" then return rep(s, n, separator) end     -- says what is wrong
  local length = #text + (type(separator) == "string" and #separator or 0)
  if count <= 0 or length == 0 then return "" end
  if count > STRING_BYTES_MAX or length * count > STRING_BYTES_MAX then error("resulting string too large", 2) end
  -- Lua copies piece by piece, so a megabyte of single bytes takes milliseconds; of larger pieces, next to nothing.
  if count > 64 and #text < 64 and (separator == nil or separator == "") then
    local piece = rep(text, 64)
    return rep(piece, count // 64) .. rep(text, count % 64)
  end
  return rep(text, count, separator)
end

-- patterns ----------------------------------------------------------------------------------------------------------

--- Return the position after the set that opens at `i`.
local function after_set(p, i)
  i = i + 1
  if byte(p, i) == 94 then i = i + 1 end               -- ^
  repeat
    local c = byte(p, i)
    if c == nil then return i end
    i = i + (c == 37 and 2 or 1)                       -- %
  until byte(p, i) == 93                               -- ]
  return i + 1
end

--- Return how often a pattern may try anew at one place: repetitions without a bound, optional items, and items that
-- walk the subject by themselves (balance, back reference).
local function appetite(p, i)
  local open, optional, walking = 0, 0, 0
  while i <= #p do
    local c = byte(p, i)
    if c == 37 then
      local class = byte(p, i + 1) or 0
      if class == 98 or (class >= 48 and class <= 57) then walking = walking + 1 end
      i = i + (class == 98 and 4 or 2)
    elseif c == 91 then
      i = after_set(p, i)
    else
      i = i + 1
    end
    local quantifier = byte(p, i)
    if quantifier == 42 or quantifier == 43 or quantifier == 45 then      -- * + -
      open, i = open + 1, i + 1
    elseif quantifier == 63 then                                          -- ?
      optional, i = optional + 1, i + 1
    end
  end
  return open, optional, walking
end

--- Refuse a match whose work could grow beyond bounds. An upper bound: it refuses some harmless patterns on long texts.
local function bound_pattern(s, p, name, anchors)
  if type(s) == "number" then s = tostring(s) end
  if type(p) == "number" then p = tostring(p) end
  if type(s) ~= "string" or type(p) ~= "string" then return end           -- the original says what is wrong
  if #p > PATTERN_BYTES_MAX then error("bad argument to '" .. name .. "' (pattern too long)", 3) end
  local anchored = anchors and byte(p, 1) == 94
  local open, optional, walking = appetite(p, anchored and 2 or 1)
  local factors = open + walking + (anchored and 0 or 1)
  local work = 2 ^ optional
  for _ = 1, factors do
    work = work * (#s + 1)
    if work > PATTERN_WORK_MAX then break end
  end
  if work > PATTERN_WORK_MAX then
    error("bad argument to '" .. name .. "' (pattern too complex for a text of " .. #s .. " bytes)", 3)
  end
  return #s > LONG
end

local function bound_plain(s, p)
  if type(s) ~= "string" or type(p) ~= "string" then return end
  if #s * #p > 100 * PATTERN_WORK_MAX then error("bad argument to 'find' (texts too long)", 3) end
  return #s > LONG
end

--- Pass results through, after a look at the clock if the call may have been long.
local function looked(long, ...)
  if long then guard.check() end
  return ...
end

function library.string.find(s, p, init, plain)
  local long
  if plain then long = bound_plain(s, p) else long = bound_pattern(s, p, "find", true) end
  return looked(long, find(s, p, init, plain))
end

function library.string.match(s, p, init)
  return looked(bound_pattern(s, p, "match", true), match(s, p, init))
end

function library.string.gmatch(s, p, init)
  bound_pattern(s, p, "gmatch", false)
  return gmatch(s, p, init)
end

function library.string.gsub(s, p, replacement, n)
  if type(replacement) == "table" and metatable_of(replacement) ~= nil then
    error("bad argument #3 to 'gsub' (a plain table expected)", 2)
  end
  return looked(bound_pattern(s, p, "gsub", true), gsub(s, p, replacement, n))
end

-- lists -------------------------------------------------------------------------------------------------------------

--- Refuse what is no plain table: Lua's functions believe a `__len`, and would walk it for ever in C.
local function plain(t, name, position)
  if type(t) ~= "table" then
    error("bad argument #" .. (position or 1) .. " to '" .. name .. "' (table expected, got " .. type(t) .. ")", 3)
  end
  local mt = metatable_of(t)
  if mt == nil then return end
  for _, field in next, { "__newindex", "__len" } do
    if rawget(mt, field) ~= nil then
      error("bad argument #" .. (position or 1) .. " to '" .. name .. "' (read-only, or a table with " .. field .. ")", 3)
    end
  end
end

function library.table.insert(t, ...)
  plain(t, "insert")
  return looked(#t > LONG, insert(t, ...))
end

function library.table.remove(t, ...)
  plain(t, "remove")
  return looked(#t > LONG, remove(t, ...))
end

function library.table.concat(t, ...)
  plain(t, "concat")
  return looked(#t > LONG, concat(t, ...))
end

function library.table.move(from, first, last, to, target)
  plain(from, "move")
  if target ~= nil then plain(target, "move", 5) end
  local f, e, t = tointeger(first), tointeger(last), tointeger(to)
  if f and e and t and e >= f and (e - f < 0 or e - f > MOVE_MAX) then
    error("bad argument #3 to 'move' (too many elements to move)", 2)
  end
  return looked(f and e and e - f > LONG, move(from, first, last, to, target))
end

function library.table.unpack(t, first, last)
  if type(t) ~= "table" then error("bad argument #1 to 'unpack' (table expected, got " .. type(t) .. ")", 2) end
  local mt = metatable_of(t)
  -- C walks `__index` chains without a look at the hook; tables behind a view are plain.
  if mt ~= nil and type(rawget(mt, "__index")) == "function" and last == nil then plain(t, "unpack") end
  return unpack(t, first, last)
end
library.unpack = library.table.unpack

local function ascending(a, b) return a < b end

--- Sort runs of eight by insertion.
local function sort_runs(list, n, before)
  for low = 1, n, 8 do
    for i = low + 1, low + 7 < n and low + 7 or n do
      local value, j = list[i], i - 1
      while j >= low and before(value, list[j]) do
        list[j + 1] = list[j]
        j = j - 1
      end
      list[j + 1] = value
    end
  end
end

--- Merge the sorted runs [low, mid) and [mid, high] of `from` into `into`.
local function merge(from, into, low, mid, high, before)
  local i, j = low, mid
  for k = low, high do
    if j > high or (i < mid and not before(from[j], from[i])) then
      into[k], i = from[i], i + 1
    else
      into[k], j = from[j], j + 1
    end
  end
end

--- `table.sort`, stable: Lua's own draws its pivot from the clock, so elements that tie would come in any order.
function library.table.sort(t, before)
  plain(t, "sort")
  before = before or ascending
  if type(before) ~= "function" then
    error("bad argument #2 to 'sort' (function expected, got " .. type(before) .. ")", 2)
  end
  local n, list, spare, width = #t, {}, {}, 8
  for i = 1, n do list[i] = t[i] end
  sort_runs(list, n, before)
  while width < n do
    for low = 1, n, 2 * width do
      local high = low + 2 * width - 1
      merge(list, spare, low, low + width, high < n and high or n, before)
    end
    list, spare, width = spare, list, width * 2
  end
  for i = 1, n do t[i] = list[i] end
end

-- chance, time and logs, of one decision ------------------------------------------------------------------------------

local state, now_ms = 0, 0
local logs = {}

--- Begin a decision: the same seed gives the same numbers on every machine.
-- @param kept  the list that logs go to, as {level, message}; the helpers write to the same
function library.begin(seed, now, kept)
  -- Not the seed itself: the helpers draw from that.
  state, now_ms, logs = seed ~ 0x5851F42D4C957F2D, now, kept
end

-- splitmix64: a small generator that passes the usual tests, in integers that wrap around everywhere alike.
local function draw()
  state = state + 0x9E3779B97F4A7C15
  local z = state
  z = (z ~ (z >> 30)) * 0xBF58476D1CE4E5B9
  z = (z ~ (z >> 27)) * 0x94D049BB133111EB
  return z ~ (z >> 31)
end

function library.math.random(low, high)
  local z = draw()
  if low == nil then return (z >> 11) / 9007199254740992.0 end
  if high == nil then low, high = 1, low end
  local from, to = tointeger(low), tointeger(high)
  if from == nil or to == nil then error("bad argument to 'random' (number has no integer representation)", 2) end
  if from == 1 and to == 0 and high == 0 then return z end     -- math.random(0): all bits
  if from > to then error("bad argument to 'random' (interval is empty)", 2) end
  if to - from < 0 or to - from == math.maxinteger then error("bad argument to 'random' (interval too large)", 2) end
  return from + (z >> 1) % (to - from + 1)
end

function library.os.time() return floor(now_ms / 1000) end

function library.os.clock() return now_ms / 1000 end

--- Keep one line for the operator; more than fit are dropped.
function library.log(...)
  local words = {}
  for i = 1, select("#", ...) do
    local word = library.tostring((select(i, ...)))
    words[i] = type(word) == "string" and word or type(word)
    if i == LOG_LINES_MAX then break end
  end
  if #logs < LOG_LINES_MAX then
    logs[#logs + 1] = { level = "info", message = sub(concat(words, "\t"), 1, LOG_BYTES_MAX) }
  end
end
library.print = library.log
library.pcall, library.xpcall = guard.pcall, guard.xpcall

return library
