-- What the functions that a policy calls share: the check of their arguments.
--
-- A wrong argument is an error that names the function and the argument. A number that is not finite or is negative
-- where an amount is asked for matches nothing. The levels blame the policy's line: `bad` is called by a check, the
-- check by the function, that by the policy.
--
-- M is the mirror, V what a policy sees of it, H the functions that it calls, K what the files of this folder share.

local M, V, _, K = ...

local error, next, type = error, next, type
local huge = math.huge

local function bad(number, name, expected, value)
  error("bad argument #" .. number .. " to '" .. name .. "' (" .. expected .. " expected, got " .. type(value) .. ")", 4)
end
K.bad = bad

function K.text(value, number, name)
  if type(value) ~= "string" then bad(number, name, "string", value) end
  return value
end

function K.optional_text(value, number, name)
  if value ~= nil and type(value) ~= "string" then bad(number, name, "string", value) end
  return value
end

-- An amount; nil if it is one that nothing can match.
function K.amount(value, number, name)
  if type(value) ~= "number" then bad(number, name, "number", value) end
  if value ~= value or value < 0 or value == huge then return nil end
  return value
end

function K.callable(value, number, name)
  if type(value) ~= "function" then bad(number, name, "function", value) end
  return value
end

-- A record or its id; nil if there is none of that id.
local function record(value, number, name, what, nodes, view)
  if type(value) == "table" then return value end
  if type(value) ~= "string" then bad(number, name, what .. " or its id", value) end
  local node = nodes[value]
  return node and view(node)
end

function K.job_of(value, number, name) return record(value, number, name, "job", M.jobs, V.job) end

function K.worker_of(value, number, name) return record(value, number, name, "worker", M.workers, V.worker) end

function K.tenant_of(value, number, name) return record(value, number, name, "tenant", M.tenants, V.tenant) end

-- What a filter accepts: a function of one record, or a table of fields that must be equal.
function K.predicate(wanted, number, name)
  if type(wanted) == "function" then return wanted end
  if type(wanted) ~= "table" then bad(number, name, "function or table", wanted) end
  return function(each)
    for field, value in next, wanted do
      if each[field] ~= value then return false end
    end
    return true
  end
end

function K.rank_of(priority, number, name)
  return M.RANK[priority] or error("bad argument #" .. number .. " to '" .. name .. "' (no class " ..
    (type(priority) == "string" and "'" .. priority .. "'" or type(priority)) .. ")", 3)
end

-- The mirror's node of a job that waits and demands nothing but room; nil for another, or a table of the policy's own.
function K.plain_node(job)
  local node = M.jobs[job.id]
  return node and node.plain and (node.raw == job or V.job(node) == job) and node or nil
end

function K.worker_or_nil(node) return node and V.worker(node) end

function K.number_or(value, otherwise) return type(value) == "number" and value or otherwise end
