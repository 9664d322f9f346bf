--- What surrounds a policy in its process: the environment it sees, how its text is loaded, how it is asked.
--
-- The environment is built from nothing, name by name, from `allowlist.txt`; a name that is not there is nil. After this
-- file has run, the real global table holds nothing dangerous either, although no policy can reach it.
--
-- rooms: { allowlist, platform, limits, guard, library, border, state, mirror, helpers }: the texts of the list and of the
-- platform policy, the numbers of limits.py, and the other trusted files as they returned.

local rooms = ...
local guard, library, border, state, M = rooms.guard, rooms.library, rooms.border, rooms.state, rooms.mirror

local assert, error, load, next, rawget, type = assert, error, load, next, rawget, type
local getmetatable = getmetatable
local gmatch, sub = string.gmatch, string.sub
local ipairs, concat = ipairs, table.concat

local SOURCE_BYTES_MAX = rooms.limits.source_bytes_max
local DISPATCHES_MAX = rooms.limits.decisions_max

-- the environment -----------------------------------------------------------------------------------------------------

local function find(from, name)
  local value = from
  for part in gmatch(name, "[^.]+") do value = value and value[part] end
  return value
end

local function add(env, name, value)
  local room, field = name:match("^(%w+)%.(%w+)$")
  if room then
    env[room] = env[room] or {}
    env[room][field] = value
  else
    env[name] = value
  end
end

-- What other rooms give a policy besides its context.
local given = { platform = M.platform_table }
-- The specification calls some helpers by their bare names; the list says which.
for name, call in next, rooms.helpers do given[name] = call end

--- Return a fresh environment with exactly the names of the list.
local function environment()
  local sources = { lua = _G, ours = library, room = given }
  local env = {}
  for line in gmatch(rooms.allowlist, "[^\n]+") do
    local name, from = line:match("^([%w_.]+)%s+(%a+)")
    if name then
      local value = find(sources[from], name)
      if value == nil then error("allowlist.txt names " .. name .. ", which " .. from .. " does not have") end
      add(env, name, value)
    end
  end
  env._G = env
  return env
end

local env = environment()

-- The platform policy is a policy like any other, in an environment of its own, which no other policy can change.
local platform = environment()
assert(load(rooms.platform, "=platform", "t", platform))()
M.platform = { schedule = platform.schedule, source = rooms.platform }

-- Methods of strings go through a table of their own, which nobody but Lua itself can reach.
local methods = {}
for name, value in next, env.string do methods[name] = value end
local of_strings = getmetatable("")
of_strings.__index = methods
of_strings.__metatable = false

-- loading -------------------------------------------------------------------------------------------------------------

local schedule, loaded

local function reply(status, text, line, decided, kept)
  return border.pack(status, text, line, decided, M.logs, M.emitted, guard.steps(), kept)
end

--- Ask `schedule_job(job, pools, workers)` for each job in order. A worker is offered no more jobs than it has slots.
local function by_job(schedule_job)
  return function(context)
    local taken, actions = {}, {}
    for _, job in ipairs(context.queue) do
      local worker = schedule_job(job, context.pools, context.workers)
      local id, slots = worker, 1
      if type(worker) == "table" then id, slots = worker.id, worker.slots_free or 1 end
      if id ~= nil then
        local used = taken[id] or 0
        if used < slots then
          taken[id] = used + 1
          actions[#actions + 1] = { action = "dispatch", job_id = job.id, worker_id = id }
          if #actions == DISPATCHES_MAX then break end
        end
      end
    end
    if #actions == 0 then return { action = "wait" } end
    return { action = "batch", actions = actions }
  end
end

--- Load a policy's text; once in the life of a process.
-- @return a packed reply: "ok", "rejected", "killed" or "memory"
local function load_policy(source, cpu_ms, instructions)
  M.begin(0, 0)
  library.begin(0, 0, M.logs)
  if loaded then return reply("rejected", "this process has its policy already") end
  if #source > SOURCE_BYTES_MAX then
    return reply("rejected", "the text is longer than " .. SOURCE_BYTES_MAX .. " bytes")
  end
  if sub(source, 1, 1) == "\27" then return reply("rejected", "bytecode is not accepted, only text") end
  local chunk, fault = load(source, "=policy", "t", env)
  if not chunk then return reply("rejected", border.fault(fault)) end
  loaded = true
  local status, text, line = guard.run(cpu_ms, instructions, chunk)
  if status == "failed" then
    local told, where = border.fault(text)
    return reply("rejected", told, line or where)
  elseif status ~= "ok" then
    return reply(status, (border.fault(text)), line)
  end
  -- Raw: a function that only a metatable answers for is none.
  schedule = rawget(env, "schedule")
  local schedule_job = rawget(env, "schedule_job")
  if schedule == nil and type(schedule_job) == "function" then schedule = by_job(schedule_job) end
  if type(schedule) ~= "function" then
    schedule = nil
    return reply("rejected", "there is no function schedule(context)")
  end
  return reply("ok")
end

-- deciding ------------------------------------------------------------------------------------------------------------

-- What `context.state` held, packed, after the last decision that counted.
local kept = ""

-- The policy gets what was packed, after every change and not only in another process: so a process that takes over is
-- no different, and tables that the policy remembers elsewhere are not mistaken for what is kept.
local function restore(bytes)
  kept = bytes
  M.views.state = state.unpack(bytes)
end

--- Keep what the policy wrote into `context.state`.
-- @return whether it can be kept, then the new bytes if it changed, or what is wrong
local function keep()
  local bytes, wrong = state.pack(M.views.state)
  if bytes == nil then return false, "context.state " .. wrong end
  if bytes == kept then return true, nil end
  restore(bytes)
  return true, bytes
end

--- Ask the policy for one decision.
-- @param seed     of everything that it draws by chance
-- @param now_ms   the instant that it sees, however long it takes
-- @param held     what `context.state` holds, packed; nil: what the last decision left
-- @return a packed reply: "ok" with decisions, "malformed", "failed", "killed" or "memory"
local function decide(seed, now_ms, cpu_ms, instructions, held)
  if schedule == nil then return reply("rejected", "no policy is loaded") end
  restore(held or kept)
  M.begin(now_ms, seed)
  library.begin(seed, now_ms, M.logs)
  local status, result, line = guard.run(cpu_ms, instructions, schedule, M.context())
  if status == "failed" then
    local text, where = border.fault(result)
    return reply("failed", text, line or where)
  elseif status ~= "ok" then
    return reply(status, (border.fault(result)), line)
  end
  local decided, wrong = border.extract(result)
  if not decided then return reply("malformed", wrong) end
  local is_kept, bytes = keep()
  if not is_kept then return reply("malformed", bytes) end
  return reply("ok", nil, nil, decided, bytes)
end

-- Nothing of this is reachable for a policy. It is taken away all the same, so that a hole would lead nowhere.
for _, name in ipairs({
  "io", "os", "package", "require", "dofile", "loadfile", "load", "loadstring", "debug", "python", "collectgarbage",
  "coroutine", "print", "warn",
}) do
  _G[name] = nil
end
string.dump = nil

return { load = load_policy, decide = decide, names = function()
  local all = {}
  for name, value in next, env do
    if type(value) == "table" and value ~= env and not getmetatable(value) then
      for field in next, value do all[#all + 1] = name .. "." .. field end
    else
      all[#all + 1] = name
    end
  end
  return concat(all, " ")
end }
