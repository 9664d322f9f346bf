-- The functions that a policy calls: `context.helpers.x(...)`, `context.x(...)`, `context:x(...)` and the chainable
-- lists of workers. Every one answers from the mirror's indexes where there is one.
--
-- Arguments are checked, and a wrong one is an error that names the function and the argument. A number that is not
-- finite or is negative where an amount is asked for matches nothing. Ties always fall to the smaller id.

local M, V = ...
local H = {}

local error, ipairs, pairs, select, tostring, type = error, ipairs, pairs, select, tostring, type
local huge = math.huge

-- ---------------------------------------------------------------------------------------------------------------------
-- Arguments

local function bad(number, name, expected, value)
  error("bad argument #" .. number .. " to '" .. name .. "' (" .. expected .. " expected, got " .. type(value) .. ")", 4)
end

local function text(value, number, name)
  if type(value) ~= "string" then bad(number, name, "string", value) end
  return value
end

local function optional_text(value, number, name)
  if value ~= nil and type(value) ~= "string" then bad(number, name, "string", value) end
  return value
end

-- An amount; nil if it is one that nothing can match.
local function amount(value, number, name)
  if type(value) ~= "number" then bad(number, name, "number", value) end
  if value ~= value or value < 0 or value == huge then return nil end
  return value
end

-- A record or its id; nil if there is none of that id.
local function record(value, number, name, what, nodes, view)
  if type(value) == "table" then return value end
  if type(value) ~= "string" then bad(number, name, what .. " or its id", value) end
  local node = nodes[value]
  return node and view(node)
end

local function worker_or_nil(node) return node and V.worker(node) end

-- ---------------------------------------------------------------------------------------------------------------------
-- Jobs

function H.get_job(id)
  local node = M.jobs[text(id, 1, "get_job")]
  return node and V.job(node)
end

function H.calculate_wait_time(job)
  local found = record(job, 1, "calculate_wait_time", "job", M.jobs, V.job)
  return found and found.wait_time_ms
end

-- ---------------------------------------------------------------------------------------------------------------------
-- Workers

function H.get_all_workers() return V.workers(M.all_scope) end

local function find(name, model_ref, pool_id, bytes, order)
  text(model_ref, 1, name)
  if type(pool_id) == "number" then pool_id, bytes = nil, pool_id end
  optional_text(pool_id, 2, name)
  if bytes ~= nil then
    bytes = amount(bytes, 3, name)
    if not bytes then return nil end
  end
  return worker_or_nil(M.best(M.resolve(model_ref), pool_id, order, bytes))
end

function H.find_worker(model_ref, pool_id, bytes) return find("find_worker", model_ref, pool_id, bytes, "load") end

function H.find_least_loaded_worker(model_ref, pool_id, bytes)
  return find("find_least_loaded_worker", model_ref, pool_id, bytes, "load")
end

function H.find_most_vram_free_worker(model_ref, pool_id, bytes)
  return find("find_most_vram_free_worker", model_ref, pool_id, bytes, "vram")
end
H.find_worker_most_vram_free = H.find_most_vram_free_worker

function H.find_ready_worker(model_ref, pool_id, bytes)
  return find("find_ready_worker", model_ref, pool_id, bytes, "id")
end

-- ---------------------------------------------------------------------------------------------------------------------
-- Tenants

function H.check_tenant_quota(tenant, wanted)
  local found = record(tenant, 1, "check_tenant_quota", "tenant", M.tenants, V.tenant)
  if not found then return false, "tenant_unknown" end
  local bytes = type(wanted) == "table" and wanted.estimated_vram_bytes or wanted or 0
  bytes = amount(bytes, 2, "check_tenant_quota")
  if not bytes then return false, "amount_invalid" end
  if found.quota_vram and found.quota_used + bytes > found.quota_vram then return false, "vram_quota_exceeded" end
  if found.quota_jobs and found.jobs_running >= found.quota_jobs then return false, "job_quota_exceeded" end
  return true
end
H.check_quota = H.check_tenant_quota

-- ---------------------------------------------------------------------------------------------------------------------
-- Both call styles

local helpers = V.map(H)
V.extend("helpers", helpers)

local function publish()
  for name, call in pairs(H) do
    if type(call) == "function" then
      V.extend(name, function(first, ...)
        if first == V.context or first == helpers then return call(...) end
        return call(first, ...)
      end)
    end
  end
end
publish()

return H
