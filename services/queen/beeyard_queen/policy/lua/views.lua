-- What a policy sees of the mirror: read-only stand-ins that look like the plain tables of the specification.
--
-- Each record has one view, made when it is first asked for and kept: an empty table whose `__index` is the record
-- itself, which costs twice a plain table and not eleven times, as a function would. `#`, `ipairs` and `pairs` work as
-- on plain tables, `pairs` in sorted order; a write is an error. Views are manners, not the fence: what a decision says
-- is checked against the queen's own state.
--
-- The queue is unrolled only as far as it is read: a decision that looks at its first ten jobs pays for ten.

-- Whoever trusts the policy sets `V.plain` before: it sees jobs, workers and the like as the records themselves.

local M, V = ...

local error, getmetatable, ipairs, next, pairs, rawget, setmetatable, type =
  error, getmetatable, ipairs, next, pairs, rawget, setmetatable, type
local sort, mathtype = table.sort, math.type
-- `getmetatable` answers "read-only" for a view; the trusted side needs the real one.
local metatable_of = debug and debug.getmetatable or getmetatable

local function refuse() error("context is read-only", 2) end

-- Sorted: numbers, then strings. Records and maps have no other keys.
local function before(a, b)
  local left, right = type(a), type(b)
  if left ~= right then return left < right end
  return a < b
end

local function sorted_pairs(view)
  local from, keys = metatable_of(view).target, {}
  for key in next, from do keys[#keys + 1] = key end
  sort(keys, before)
  local at = 0
  return function()
    at = at + 1
    local key = keys[at]
    if key ~= nil then return key, from[key] end
    return nil
  end, view, nil
end

-- A map from names to scalars or views.
function V.map(target)
  return setmetatable({}, {
    __index = target, __newindex = refuse, __pairs = sorted_pairs, __len = function() return #target end,
    __metatable = "read-only", target = target,
  })
end

local function array_pairs(view)
  local at = 0
  return function()
    at = at + 1
    local value = view[at]
    if value ~= nil then return at, value end
    return nil
  end, view, nil
end

-- A list of the mirror's that a policy may change, since it gets a copy.
function V.own(list)
  if V.plain then return list end
  local copy = {}
  for at, value in ipairs(list) do copy[at] = value end
  return copy
end

-- A list of views or scalars.
function V.array(target)
  return setmetatable({}, {
    __index = target, __newindex = refuse, __pairs = array_pairs, __len = function() return #target end,
    __metatable = "read-only", target = target,
  })
end

-- A kind of record: `fields` in the order that `pairs` gives them, `dynamic` what is worked out when it is read.
-- Returns how to dress a new record and how to view it.
local function kind(fields, dynamic)
  local record_metatable = {
    __index = function(raw, name)
      local work_out = dynamic[name]
      return work_out and work_out(raw)
    end,
  }
  local function record_pairs(view)
    local at = 0
    return function()
      while true do
        at = at + 1
        local name = fields[at]
        if name == nil then return nil end
        local value = view[name]
        if value ~= nil then return name, value end
      end
    end, view, nil
  end
  local function dress(node) setmetatable(node.raw, record_metatable) end
  if V.plain then return dress, function(node) return node.raw end end
  local function view(node)
    local made = node.view
    if not made then
      made = setmetatable({}, {
        __index = node.raw, __newindex = refuse, __pairs = record_pairs, __len = function() return 0 end,
        __metatable = "read-only", node = node,
      })
      node.view = made
    end
    return made
  end
  return dress, view
end

local EMPTY = V.map({})

local function geo_of(raw)
  if not raw.geo_lat or not raw.geo_lon then return nil end
  local geo = V.map({ lat = raw.geo_lat, lon = raw.geo_lon })
  raw.geo = geo
  return geo
end

-- ---------------------------------------------------------------------------------------------------------------------
-- Jobs

local dress_job, job_view = kind({
  "attempt", "cost_units", "created_at", "deadline_at", "deadline_ms", "engine", "estimated_duration_ms",
  "estimated_vram_bytes", "expected_tokens", "extensions", "id", "is_next", "labels", "max_tokens",
  "min_compute_capability", "min_context_tokens", "min_vram_bytes", "model_ref", "pin_pool_id", "priority",
  "prompt_hash", "prompt_tokens", "quantizations", "queued_at", "seed", "session_id", "session_turn", "tenant_id",
  "type", "user", "wait_time_ms",
}, {
  wait_time_ms = function(raw)
    local waited = M.now - raw.queued_at
    return waited > 0 and waited or 0
  end,
  -- As the client gave it: from acceptance to the end. `deadline_at` is the instant.
  deadline_ms = function(raw) return raw.deadline_at and raw.deadline_at - raw.created_at end,
  labels = function(raw)
    if not raw.label_values then return EMPTY end
    raw.labels = V.map(raw.label_values)
    return raw.labels
  end,
  user = function(raw)
    raw.user = V.map({ geo = geo_of(raw) })
    return raw.user
  end,
  geo = geo_of,
  model = function(raw) return raw.model_ref end,
})
V.job = job_view

-- Views are made with their records and not when a decision first meets them: every job is looked at some day.
function M.job_made(node)
  dress_job(node)
  job_view(node)
end

local QUEUE_AHEAD = 16

-- A fresh unrolling of the queue: an array that fills itself as it is read.
local function unrolled()
  local rank, step, n = 0, nil, 0
  return setmetatable({}, {
    __index = function(array, at)
      if mathtype(at) ~= "integer" or at <= n then return nil end
      local upto = at + QUEUE_AHEAD
      while n < upto do
        local node = step and step()
        if node then
          n = n + 1
          array[n] = job_view(node)
        elseif rank == #M.CLASSES then
          break
        else
          rank = rank + 1
          step = M.walk(M.classes[rank].line)
        end
      end
      return n >= at and rawget(array, at) or nil
    end,
  })
end

local queue_metatable = {
  __index = {}, __newindex = refuse, __pairs = array_pairs, __len = M.job_count,
  __metatable = "read-only",
}
V.queue = setmetatable({}, queue_metatable)
local unrolled_version = -1

-- Stands in until the queue is first read: most decisions never do.
local function unroll_first(_, at)
  queue_metatable.__index = unrolled()
  return queue_metatable.__index[at]
end

function M.begun()
  if unrolled_version ~= M.queue_version then
    unrolled_version = M.queue_version
    queue_metatable.__index = unroll_first
  end
end

-- ---------------------------------------------------------------------------------------------------------------------
-- Workers

local function gpu_ids(raw)
  local ids = M.csv(raw.gpu_ids_csv)
  for at, id in ipairs(ids) do
    local gpu = M.find_gpu(raw.pool_id, id)
    if gpu then ids[at] = gpu.id end
  end
  return ids
end

local dress_worker, worker_view = kind({
  "capability", "context_tokens", "cost_per_token", "engine", "extensions", "geo", "gpu_id", "gpu_ids", "gpus", "id",
  "jobs_served", "kv_free_tokens", "last_used_at", "load", "model_ref", "pool_id", "prefill_speedup", "quantization",
  "resident_at", "served_class", "slots_free", "slots_total", "status", "tokens_per_s", "uptime_s", "vram_free",
}, {
  uptime_s = function(raw) return M.now > raw.started_at and (M.now - raw.started_at) / 1000 or 0 end,
  geo = geo_of,
  gpu_ids = function(raw) return V.array(gpu_ids(raw)) end,
  gpu_id = function(raw) return gpu_ids(raw)[1] end,
  -- How many GPUs the worker spans.
  gpus = function(raw) return #M.csv(raw.gpu_ids_csv) end,
  model = function(raw) return raw.model_ref end,
})
V.worker = worker_view

function M.worker_made(node)
  node.raw.geo = nil
  if node.view then return end
  dress_worker(node)
  worker_view(node)
end

-- What a list of workers can be asked; the helpers fill it in.
V.worker_methods = {}
local own_list = { __index = V.worker_methods, __metatable = "workers" }

-- A list of the policy's own, with the methods of a list of workers.
function V.own_workers(list) return setmetatable(list, own_list) end

local function list_view(target, scope_model, scope_pool, is_scope)
  setmetatable(target, own_list)
  return setmetatable({}, {
    __index = target, __newindex = refuse, __pairs = array_pairs, __len = function() return #target end,
    __metatable = "read-only", target = target, is_scope = is_scope, model = scope_model, pool = scope_pool,
  })
end

-- What has no workers is no scope: asked further it must not answer for all.
local NO_WORKERS = list_view({}, nil, nil, false)

-- The view of all workers of a scope, in the order of their ids; kept until one joins or leaves.
function V.workers(scope, model, pool)
  if not scope then return NO_WORKERS end
  if not scope.list then
    local target = {}
    for at, node in ipairs(scope.members) do target[at] = worker_view(node) end
    scope.list = list_view(target, model, pool, true)
  end
  return scope.list
end

-- Whether a list is a scope's own, and of which model and pool.
function V.scope_of(list)
  local found = metatable_of(list)
  if type(found) == "table" and found.is_scope then return true, found.model, found.pool end
  return false
end

-- ---------------------------------------------------------------------------------------------------------------------
-- Pools, GPUs, tenants, models, figures

local dress_gpu, gpu_view = kind({
  "compute_capability", "id", "name", "pool_id", "power_w", "temperature_c", "utilization", "vram_allocated",
  "vram_free", "vram_total",
}, {})
V.gpu = gpu_view

function V.gpus(pool)
  if not pool.gpu_views then
    local list = {}
    for at, node in ipairs(pool.gpu_list) do list[at] = gpu_view(node) end
    pool.gpu_views = V.array(list)
  end
  return pool.gpu_views
end

local dress_pool, pool_view = kind({ "gpus", "heartbeat_age_ms", "id", "last_report_ms", "status", "workers" }, {
  workers = function(raw) return V.workers(M.pool_scopes[raw.id], nil, raw.id) end,
  gpus = function(raw) return V.gpus(M.pools[raw.id]) end,
  heartbeat_age_ms = function(raw) return M.now > raw.last_report_ms and M.now - raw.last_report_ms or 0 end,
})
V.pool = pool_view
M.pool_made = dress_pool

local dress_tenant, tenant_view = kind({
  "id", "jobs_running", "jobs_waiting", "quota_jobs", "quota_used", "quota_vram", "tokens_per_minute",
  "tokens_served", "weight",
}, { jobs_waiting = function(raw) return M.waiting_by_tenant[raw.id] or 0 end })

function V.tenant(node)
  if not node.view then dress_tenant(node) end
  return tenant_view(node)
end

local _, run_view = kind({
  "id", "is_kept", "is_stopping", "job_id", "kv_tokens", "priority", "started_at", "tenant_id", "worker_id",
}, {})
V.run = run_view

local _, model_view = kind({ "context", "family", "id", "pool_ids", "quantization", "ref", "size_bytes", "vram_required" }, {})
V.model = model_view

local _, history_view = kind({
  "device", "mean_ms", "model_ref", "n", "p50_ms", "p95_ms", "urgent_slots", "urgent_slots_next",
}, {})
V.history = history_view

local function views_of(list, view)
  local target = {}
  for at, node in ipairs(list) do target[at] = view(node) end
  return V.array(target)
end

function V.pools()
  M.pool_views = M.pool_views or views_of(M.pool_list, pool_view)
  return M.pool_views
end

function V.tenants()
  M.tenant_views = M.tenant_views or views_of(M.tenant_list, V.tenant)
  return M.tenant_views
end

local model_views = {}
local catalog = V.map({ models = V.map(model_views), aliases = V.map(M.aliases) })

function V.catalog()
  if M.catalog_changed then
    for ref in pairs(model_views) do model_views[ref] = nil end
    for ref, node in pairs(M.models) do model_views[ref] = model_view(node) end
    M.catalog_changed = false
  end
  return catalog
end

-- Figures that the mirror knows by itself stand in where the queen sent none of that name.
local counted = {
  queue_depth = M.job_count,
  total_workers = function() return (M.worker_counts()) end,
  busy_workers = function()
    local _, busy = M.worker_counts()
    return busy
  end,
}
setmetatable(M.metrics, {
  __index = function(_, name)
    local work_out = counted[name]
    return work_out and work_out()
  end,
})
local metrics = setmetatable({}, {
  __index = M.metrics, __newindex = refuse, __len = function() return 0 end, __metatable = "read-only",
  __pairs = function(view)
    local all = {}
    for name, work_out in pairs(counted) do all[name] = work_out() end
    for name, value in next, M.metrics do all[name] = value end
    return sorted_pairs(V.map(all)), view, nil
  end,
})
local config = V.map(M.config_values)

-- ---------------------------------------------------------------------------------------------------------------------
-- The context

-- The policy's own table, which outlives the decision; whoever runs the policy may put another in its place.
V.state = {}

local live = {
  queue = function() return V.queue end,
  pools = V.pools,
  tenants = V.tenants,
  catalog = V.catalog,
  now_ms = function() return M.now end,
  workers = function() return V.workers(M.all_scope) end,
  state = function() return V.state end,
}
local context = setmetatable({ metrics = metrics, config = config }, {
  __index = function(_, name)
    local work_out = live[name]
    return work_out and work_out()
  end,
})
local NAMES = {
  "catalog", "config", "helpers", "metrics", "now_ms", "pools", "queue", "state", "tenants", "workers",
}
V.context = setmetatable({}, {
  __index = context, __newindex = refuse, __len = function() return 0 end, __metatable = "read-only",
  __pairs = function(view)
    local at = 0
    return function()
      at = at + 1
      if NAMES[at] then return NAMES[at], view[NAMES[at]] end
      return nil
    end, view, nil
  end,
})

-- The helpers put themselves in here: `helpers` and one function for each `context.x`.
function V.extend(name, value) context[name] = value end

function M.context() return V.context end

M.views = V
