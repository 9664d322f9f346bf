-- The platform policy as a function, and the ways in which a policy reaches all of them: `context.helpers.x(...)`,
-- `context.x(...)`, `context:x(...)`. This file comes last.

local M, V, H = ...

local error, pairs = error, pairs

-- Whoever loads the mirror gives it the platform policy: `M.platform = { schedule = ..., source = "..." }`.
function H.platform_schedule()
  if not M.platform then error("the platform policy is not loaded here", 2) end
  return M.platform.schedule(V.context)
end

function H.get_platform_scheduler_source() return M.platform and M.platform.source end

-- The table `platform` of a policy's environment.
M.platform_table = V.map({ schedule = H.platform_schedule, get_source = H.get_platform_scheduler_source })

local helpers = V.map(H)
V.extend("helpers", helpers)

-- `context:x(...)` and `helpers:x(...)` hand the table itself over first. Only there is it taken off: a function given
-- another list of arguments than its own would blame the wrong one.
for name, call in pairs(H) do
  V.extend(name, function(first, ...)
    if first == V.context or first == helpers then return call(...) end
    return call(first, ...)
  end)
end

M.helpers = H
