--- The end of a policy that runs too long, in such a way that the policy cannot catch it.
--
-- A hook counts instructions and looks at the clock. Once a budget is spent the run is doomed: the hook fires on every
-- instruction, `pcall` re-raises, and nothing that the policy does makes it whole again. What a hook cannot see (a long
-- call into C, a stack so deep that the hook itself fails) is ended from outside by SIGKILL; this file only makes the
-- usual end cheap and able to say in which line it came.
--
-- Errors that say that the machine below is exhausted doom a run, too: whoever catches those can fill stack or memory
-- again and again, so that the hook never finds room to run.

local error, pcall, type, xpcall = error, pcall, type, xpcall
local getinfo, sethook = debug.getinfo, debug.sethook
local clock = os.clock
local find = string.find

local STEP = 1000          -- instructions between two looks at the budgets
local DEPTH_MAX = (...).call_depth_max
local LEVELS_MAX = 200     -- how deep to look for a line of the policy
local EXHAUSTED_BYTES = 200

local guard = {}

local TOKEN = {}           -- what a doomed run is unwound with; its identity means nothing, `doom` is the truth
local doom                 -- nil, or {status, text, line}
local running = false      -- whether there is a policy to interrupt
local fault_line           -- the line that an error came from, where its text does not say so
local runner               -- the trusted function that started the policy and must not be interrupted
local steps, steps_max, deadline, cpu_ms_max = 0, 0, 0, 0
local hook

--- Return the line of the policy that is being run, or nil.
local function policy_line(level)
  for depth = level, level + LEVELS_MAX do
    local where = getinfo(depth, "Sl")
    if where == nil then return nil end
    if where.source == "=policy" then return where.currentline end
  end
  return nil
end

--- Doom the run that is under way; the first reason stays.
local function condemn(status, text)
  if doom == nil then
    doom = { status = status, text = text, line = fault_line or policy_line(4) }
    if running then sethook(hook, "", 1) end
  end
end

local function over_budget()
  if steps > steps_max then
    condemn("killed", "used more than its " .. steps_max .. " instructions")
  elseif clock() > deadline then
    condemn("killed", "used more than its " .. cpu_ms_max .. " ms of CPU time")
  elseif getinfo(DEPTH_MAX, "l") then
    -- Lua's own end of the stack comes ten times as deep, and costs more than all of the budget to get there.
    condemn("failed", "stack overflow: more than " .. DEPTH_MAX .. " calls deep")
  end
  return doom ~= nil
end

function hook()
  if not running then return end
  if doom == nil then
    steps = steps + STEP
    if not over_budget() then return end
  end
  if getinfo(2, "f").func ~= runner then error(TOKEN, 0) end
end

--- Look at the clock now. For wrappers of library calls that may have spent long in C, unseen by the hook.
function guard.check()
  if doom ~= nil or over_budget() then error(TOKEN, 0) end
end

--- Doom the run if `fault` says that the machine is exhausted.
local function notice(fault)
  if type(fault) ~= "string" or #fault > EXHAUSTED_BYTES then return end
  if find(fault, "not enough memory", 1, true) then
    condemn("memory", "used more than its memory")
  elseif find(fault, "stack overflow", 1, true) or find(fault, "error in error handling", 1, true) then
    condemn("failed", fault)
  end
end

local function settle(ok, ...)
  if not ok then notice((...)) end
  if doom ~= nil then error(TOKEN, 0) end
  return ok, ...
end

--- `pcall` for policies: the end of the run, and exhaustion, pass through it.
function guard.pcall(f, ...)
  return settle(pcall(f, ...))
end

--- `xpcall` for policies. The message function runs after the stack is unwound and not on top of it: there, Lua would
-- run it with hooks off.
function guard.xpcall(f, message_of, ...)
  local function finish(ok, ...)
    if ok then return true, ... end
    local _, message = settle(pcall(message_of, (...)))
    return false, message
  end
  return finish(settle(pcall(f, ...)))
end

--- Remember the policy's line of an error that was raised on its behalf elsewhere.
local function locate(fault)
  if doom == nil and (type(fault) ~= "string" or not find(fault, "policy:", 1, true)) then
    fault_line = policy_line(3)
  end
  return fault
end

-- Named, because the hook must know it: an error raised in here would escape to the process.
local function run(f, ...)
  running = true
  sethook(hook, "", STEP)
  local ok, result = xpcall(f, locate, ...)
  running = false
  sethook()
  return ok, result
end
runner = run

--- Run a function of the policy within budgets.
-- @param cpu_ms     CPU time that it may use
-- @param instructions  how many it may execute
-- @return status ("ok", "failed", "killed" or "memory"), then the result or the error, then the line where it ended
function guard.run(cpu_ms, instructions, f, ...)
  doom, fault_line, steps, steps_max, cpu_ms_max = nil, nil, 0, instructions, cpu_ms
  deadline = clock() + cpu_ms / 1000
  local ok, result = run(f, ...)
  if doom == nil and not ok then notice(result) end
  if doom ~= nil then return doom.status, doom.text, doom.line end
  if ok then return "ok", result end
  return "failed", result, fault_line
end

--- Instructions that the last run used, to the thousand.
function guard.steps()
  return steps
end

return guard
