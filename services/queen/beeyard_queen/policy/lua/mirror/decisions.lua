-- What belongs to one decision: its instant, its chance, what the policy logs in it. And the deltas by name.

local M = ...

local error, floor, next, tostring = error, math.floor, next, tostring

-- What a mirror can be told. Whoever feeds it takes the functions from here.
M.deltas = {}
for _, name in ipairs({
  "worker", "worker_load", "worker_gone", "prefix", "job", "job_label", "job_gone", "running", "running_gone", "pool",
  "pool_gone", "gpu", "gpu_gone", "tenant", "tenant_load", "tenant_gone", "model", "model_gone", "alias", "metric",
  "config", "history",
}) do M.deltas[name] = M[name] end

-- Apply one delta by name.
function M.apply(kind, ...)
  local delta = M.deltas[kind] or error("unknown delta " .. tostring(kind), 2)
  return delta(...)
end

M.now = 0
-- What the policy logged and measured in this decision, and whose turn it is in its round robins.
M.logs, M.emitted, M.turns = {}, {}, {}
local chance = 0

-- Open a decision: from here to the next `begin`, time stands still.
function M.begin(now_ms, seed)
  M.now = now_ms
  chance = seed
  if M.logs[1] then M.logs = {} end
  if M.emitted[1] then M.emitted = {} end
  if next(M.turns) then M.turns = {} end
  M.begun()
end

-- The next of the decision's 64-bit random numbers (splitmix64: the same on every machine).
local function next_chance()
  chance = chance + 0x9E3779B97F4A7C15
  local z = chance
  z = (z ~ (z >> 30)) * 0xBF58476D1CE4E5B9
  z = (z ~ (z >> 27)) * 0x94D049BB133111EB
  return z ~ (z >> 31)
end

-- A number in [0, 1), or a whole one in [1, low] or [low, high].
function M.random(low, high)
  local fraction = (next_chance() >> 11) * (1.0 / 9007199254740992.0)
  if low == nil then return fraction end
  if high == nil then low, high = 1, low end
  if not (low <= high) then error("bad argument to 'random' (interval is empty)", 2) end
  return low + floor(fraction * (high - low + 1))
end
