-- The functions that a policy calls: `context.helpers.x(...)`, `context.x(...)`, `context:x(...)` and the chainable
-- lists of workers. Every one answers from the mirror's indexes where there is one.
--
-- Arguments are checked, and a wrong one is an error that names the function and the argument. A number that is not
-- finite or is negative where an amount is asked for matches nothing. Ties always fall to the smaller id.

local M, V = ...
local H = {}

local error, ipairs, next, pairs, setmetatable = error, ipairs, next, pairs, setmetatable
local tostring, type = tostring, type
local floor, huge = math.floor, math.huge
local sin, cos, asin, sqrt, rad = math.sin, math.cos, math.asin, math.sqrt, math.rad
local concat, sort = table.concat, table.sort
local find_text, match_text, sub_text = string.find, string.match, string.sub

-- ---------------------------------------------------------------------------------------------------------------------
-- Arguments. The levels blame the policy's line: `bad` is called by a check, the check by the function, that by the
-- policy.

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

local function callable(value, number, name)
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

local function job_of(value, number, name) return record(value, number, name, "job", M.jobs, V.job) end
local function worker_of(value, number, name) return record(value, number, name, "worker", M.workers, V.worker) end
local function tenant_of(value, number, name) return record(value, number, name, "tenant", M.tenants, V.tenant) end

-- What a filter accepts: a function of one record, or a table of fields that must be equal.
local function predicate(wanted, number, name)
  if type(wanted) == "function" then return wanted end
  if type(wanted) ~= "table" then bad(number, name, "function or table", wanted) end
  return function(each)
    for field, value in next, wanted do
      if each[field] ~= value then return false end
    end
    return true
  end
end

local function worker_or_nil(node) return node and V.worker(node) end

local function number_or(value, otherwise) return type(value) == "number" and value or otherwise end

-- ---------------------------------------------------------------------------------------------------------------------
-- Jobs

function H.get_job(id)
  local node = M.jobs[text(id, 1, "get_job")]
  return node and V.job(node)
end

function H.filter_jobs(wanted)
  local fits, found = predicate(wanted, 1, "filter_jobs"), {}
  for rank = 1, #M.CLASSES do
    for node in M.walk(M.classes[rank].line) do
      local job = V.job(node)
      if fits(job) then found[#found + 1] = job end
    end
  end
  return found
end

function H.calculate_wait_time(job)
  local found = job_of(job, 1, "calculate_wait_time")
  return found and found.wait_time_ms
end

-- Prefill is taken to be this much faster than decoding, token for token; nobody measures it apart.
local PREFILL_SPEEDUP = 20

local function cached_tokens(job, worker)
  local node = M.workers[worker.id]
  local held = node and node.prefixes and job.prompt_hash and node.prefixes[job.prompt_hash]
  return held and (held < job.prompt_tokens and held or job.prompt_tokens) or 0
end

local function history_of(model_ref)
  local devices, jobs, mean, p95 = M.histories[model_ref], 0, 0, 0
  if not devices then return nil end
  local names = {}
  for device in next, devices do names[#names + 1] = device end
  -- Sums of fractions depend on their order.
  sort(names)
  for _, device in ipairs(names) do
    local seen = devices[device].raw
    jobs, mean = jobs + seen.n, mean + seen.mean_ms * seen.n
    if seen.p95_ms > p95 then p95 = seen.p95_ms end
  end
  if jobs == 0 then return nil end
  return mean / jobs, p95
end

-- Milliseconds on a worker of known speed; nil if nothing was measured.
local function duration_on(job, worker)
  local speed = number_or(worker.tokens_per_s, 0)
  if not (speed > 0) then return nil end
  local fresh = number_or(job.prompt_tokens, 0) - cached_tokens(job, worker)
  local tokens = number_or(job.expected_tokens, number_or(job.max_tokens, 0))
  return (fresh / PREFILL_SPEEDUP + tokens) * 1000 / speed
end

local function whole(ms) return ms and floor(ms + 0.5) end

function H.estimate_job_duration(job, worker)
  local found = job_of(job, 1, "estimate_job_duration")
  if not found then return nil end
  local on = worker ~= nil and worker_of(worker, 2, "estimate_job_duration") or nil
  local ms = on and duration_on(found, on)
  if ms then return whole(ms) end
  local estimate = number_or(found.estimated_duration_ms, 0)
  if estimate > 0 then return whole(estimate) end
  return whole(history_of(found.model_ref)) or 0
end

-- "8.6" as 8 006, so that 8.10 is more than 8.9; nil for what is no version.
local function capability_number(version)
  local major, minor = match_text(version or "", "^(%d+)%.?(%d*)$")
  return major and (major + 0) * 1000 + (minor ~= "" and minor + 0 or 0)
end

local function lists(csv, wanted)
  for _, each in ipairs(M.csv(csv)) do
    if each == wanted then return true end
  end
  return false
end

local function compute_fits(wanted, worker)
  local ids = worker.gpu_ids
  if not ids or #ids == 0 then return false end
  for _, id in ipairs(ids) do
    local gpu = M.find_gpu(worker.pool_id, id)
    local has = gpu and capability_number(gpu.raw.compute_capability)
    if not has or has < wanted then return false end
  end
  return true
end

-- Why a worker is no place for a job that has demands; nil if it is one.
local function demand_unmet(job, worker)
  local context = number_or(job.min_context_tokens, 0)
  if context > 0 and number_or(worker.context_tokens, 0) < context then return "context_too_small" end
  if (job.quantizations or "") ~= "" and not lists(job.quantizations, worker.quantization) then
    return "quantization_mismatch"
  end
  if (job.pin_pool_id or "") ~= "" and job.pin_pool_id ~= worker.pool_id then return "pool_excluded" end
  if (job.avoid_pool_ids or "") ~= "" and lists(job.avoid_pool_ids, worker.pool_id) then return "pool_excluded" end
  local wanted = capability_number(job.min_compute_capability)
  if wanted and not compute_fits(wanted, worker) then return "compute_capability_too_low" end
  return nil
end

local function is_open(worker)
  local node = M.workers[worker.id]
  if node and node.view == worker then return node.open end
  return (worker.status == "ready" or worker.status == "busy") and number_or(worker.slots_free, 0) > 0
end

-- Why a worker cannot take a job now; nil if it can.
local function unfit_on(job, worker, is_worker_open)
  if job.model_ref ~= nil and M.resolve(job.model_ref) ~= worker.model_ref then return "model_mismatch" end
  if (job.engine or "") ~= "" and job.engine ~= worker.engine then return "engine_mismatch" end
  if worker.status ~= "ready" and worker.status ~= "busy" then return "worker_not_ready" end
  if number_or(worker.slots_free, 0) <= 0 then return "no_free_slot" end
  if not is_worker_open then return "pool_unhealthy" end
  local bytes = number_or(job.estimated_vram_bytes, 0)
  if not (bytes >= 0 and bytes < huge) or number_or(worker.vram_free, 0) < bytes then return "insufficient_vram" end
  local tokens = number_or(job.prompt_tokens, 0) + number_or(job.max_tokens, 0)
  if worker.kv_free_tokens and worker.kv_free_tokens < tokens then return "insufficient_kv" end
  local window = number_or(worker.context_tokens, 0)
  if window > 0 and window < tokens then return "context_too_small" end
  return demand_unmet(job, worker)
end

local function unfit(job, worker) return unfit_on(job, worker, is_open(worker)) end

function H.can_job_fit(job, worker)
  local found, on = job_of(job, 1, "can_job_fit"), worker_of(worker, 2, "can_job_fit")
  if not found then return false, "job_unknown" end
  if not on then return false, "worker_unknown" end
  local reason = unfit(found, on)
  if reason then return false, reason end
  return true
end

-- A class is worth a thousand points, a second of waiting one, up to 999: order within a class, never across.
function H.get_job_priority_score(job)
  local found = job_of(job, 1, "get_job_priority_score")
  if not found then return nil end
  local waited = number_or(found.wait_time_ms, 0) // 1000
  return (#M.CLASSES - (M.RANK[found.priority] or #M.CLASSES)) * 1000 + (waited < 999 and floor(waited) or 999)
end

-- How many jobs of a model are served before one, counted once for each decision.
local ranks, ranks_version = {}, -1
local function ahead_of(node)
  if ranks_version ~= M.queue_version then ranks, ranks_version = {}, M.queue_version end
  local of = ranks[node.model]
  if not of then
    local n = 0
    of = {}
    for rank = 1, #M.CLASSES do
      local group = M.classes[rank].models[node.model]
      if group then
        for each in M.walk(group.line) do
          of[each.id] = n
          n = n + 1
        end
      end
    end
    ranks[node.model] = of
  end
  return of[node.id]
end

function H.predict_start_ms(job)
  local found = job_of(job, 1, "predict_start_ms")
  local node = found and M.jobs[found.id]
  local scope = node and M.scope_of(M.resolve(node.model))
  if not scope then return nil end
  local slots, free = 0, 0
  for _, worker in ipairs(scope.members) do
    local raw = worker.raw
    if raw.status == "ready" or raw.status == "busy" then
      slots, free = slots + raw.slots_total, free + (worker.open and raw.slots_free or 0)
    end
  end
  if slots == 0 then return nil end
  local ahead = ahead_of(node)
  if ahead < free then return 0 end
  local mean = history_of(node.model) or number_or(found.estimated_duration_ms, 0)
  return whole((ahead - free + 1) * mean / slots)
end

-- ---------------------------------------------------------------------------------------------------------------------
-- The queue by its indexes: what a policy looks at instead of walking ten thousand jobs.

local function rank_of(priority, number, name)
  return M.RANK[priority] or error("bad argument #" .. number .. " to '" .. name .. "' (no class " ..
    (type(priority) == "string" and "'" .. priority .. "'" or type(priority)) .. ")", 3)
end

-- The oldest job of each tenant and need that waits for a model in a class, oldest first.
function H.queue_heads(priority, model_ref)
  local heads = M.model_heads(rank_of(priority, 1, "queue_heads"), M.resolve(text(model_ref, 2, "queue_heads")))
  for at, node in ipairs(heads) do heads[at] = V.job(node) end
  return heads
end

-- The oldest job of a class; of a model and tenant in it, if given.
function H.next_job(priority, model_ref, tenant_id)
  local rank, node = rank_of(priority, 1, "next_job"), nil
  if optional_text(model_ref, 2, "next_job") == nil then
    node = M.head(rank)
  elseif optional_text(tenant_id, 3, "next_job") == nil then
    node = M.model_head(rank, model_ref)
  else
    node = M.tenant_head(rank, model_ref, tenant_id)
  end
  return node and V.job(node)
end

-- Models of a class for which both jobs wait and a worker is open, in the order of their names.
function H.dispatchable_models(priority)
  local found = {}
  for at, model in ipairs(M.dispatchable(rank_of(priority, 1, "dispatchable_models"))) do found[at] = model end
  return found
end

-- Tenants whose jobs wait for a model in a class, in the order of their ids.
function H.waiting_tenants(priority, model_ref)
  local rank, found = rank_of(priority, 1, "waiting_tenants"), {}
  for at, id in ipairs(M.tenants_waiting(rank, text(model_ref, 2, "waiting_tenants"))) do found[at] = id end
  return found
end

-- Models of a class for which jobs wait and no worker is there or loading, in the order of their names.
function H.unserved_models(priority)
  local found = {}
  for at, model in ipairs(M.unserved(rank_of(priority, 1, "unserved_models"))) do found[at] = model end
  return found
end

-- Walk the tenants with waiting jobs, of one or two classes if given, whose turn it is first:
-- for tenant_id, share, running in tenants_in_turn("normal") do. `share` is the tokens served and `running` the jobs
-- running, each for the tenant's weight.
function H.tenants_in_turn(priority, or_priority)
  local one = priority ~= nil and M.classes[rank_of(priority, 1, "tenants_in_turn")].by_tenant or M.waiting_by_tenant
  local other = or_priority ~= nil and M.classes[rank_of(or_priority, 2, "tenants_in_turn")].by_tenant or one
  local at, list = 0, M.turn_list
  return function()
    local turn
    repeat
      at = at + 1
      turn = list[at]
    until not turn or one[turn.id] or other[turn.id]
    if turn then return turn.id, turn.share, turn.running end
    return nil
  end
end

-- The oldest job of a tenant in a class, of those that wait for one of some models.
function H.oldest_of_tenant(priority, tenant_id, models)
  local groups, best = M.classes[rank_of(priority, 1, "oldest_of_tenant")].models, nil
  text(tenant_id, 2, "oldest_of_tenant")
  if type(models) ~= "table" then bad(3, "oldest_of_tenant", "list of models", models) end
  for _, model in ipairs(models) do
    local group = groups[model]
    local lane = group and group.tenants[tenant_id]
    if lane then
      local node = lane.line.items[lane.line.head]
      if not best or node.seq < best.seq then best = node end
    end
  end
  return best and V.job(best)
end

local NO_JOBS = V.array({})

-- The oldest job of each need of a tenant that waits for a model in a class, oldest first.
function H.tenant_heads(priority, model_ref, tenant_id)
  local rank = rank_of(priority, 1, "tenant_heads")
  text(model_ref, 2, "tenant_heads")
  text(tenant_id, 3, "tenant_heads")
  local group = M.classes[rank].models[model_ref]
  if not group or not group.tenants[tenant_id] then return NO_JOBS end
  local heads = M.tenant_heads(rank, model_ref, tenant_id)
  for at, node in ipairs(heads) do heads[at] = V.job(node) end
  return heads
end

local function accepts(node, accept) return accept(V.job(node)) end

-- Of the jobs of a model and class that have a deadline, the one with the earliest that `accept(job)` holds for.
function H.earliest_deadline(priority, model_ref, accept)
  local rank = rank_of(priority, 1, "earliest_deadline")
  local group = M.classes[rank].models[text(model_ref, 2, "earliest_deadline")]
  if accept ~= nil then callable(accept, 3, "earliest_deadline") end
  local node = group and group.deadlines[1]
  if node and accept then node = M.heap_search(group.deadlines, accepts, accept) end
  return node and V.job(node)
end

function H.count_waiting(priority, model_ref)
  local rank = rank_of(priority, 1, "count_waiting")
  if optional_text(model_ref, 2, "count_waiting") == nil then return M.waiting(rank) end
  return M.waiting_for(rank, model_ref)
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

function H.find_cheapest_worker(model_ref, pool_id, bytes)
  return find("find_cheapest_worker", model_ref, pool_id, bytes, "cost")
end

function H.find_fastest_worker(model_ref, pool_id, bytes)
  return find("find_fastest_worker", model_ref, pool_id, bytes, "speed")
end

function H.find_workers_by_model(model_ref)
  local model = M.resolve(text(model_ref, 1, "find_workers_by_model"))
  return V.workers(M.scope_of(model), model)
end

-- The longest unused comes first, which needs no memory between decisions; within one, each call takes the next.
local function take_turn(key, first, all)
  local turn = M.turns[key]
  if not turn then
    local node = first()
    if node then M.turns[key] = { taken = 1 } end
    return node
  end
  turn.list = turn.list or all()
  local node = turn.list[turn.taken % #turn.list + 1]
  turn.taken = turn.taken + 1
  return node
end

local function longer_unused(a, b)
  if a.last_used_at ~= b.last_used_at then return a.last_used_at < b.last_used_at end
  return a.id < b.id
end

local function scope_turn(model, pool)
  local function first() return worker_or_nil(M.first(model, pool, "turn")) end
  local function all()
    local open = {}
    for _, node in ipairs(M.scope_of(model, pool).members) do
      if node.open then open[#open + 1] = V.worker(node) end
    end
    sort(open, longer_unused)
    return open
  end
  return take_turn("scope\31" .. (model or "") .. "\31" .. (pool or ""), first, all)
end

function H.find_worker_round_robin(model_ref, pool_id)
  text(model_ref, 1, "find_worker_round_robin")
  return scope_turn(M.resolve(model_ref), optional_text(pool_id, 2, "find_worker_round_robin"))
end

function H.filter_workers(wanted)
  local fits, found = predicate(wanted, 1, "filter_workers"), {}
  for _, worker in ipairs(V.workers(M.all_scope)) do
    if fits(worker) then found[#found + 1] = worker end
  end
  return V.own_workers(found)
end

-- The workers that could take a job now, in the order of their ids.
function H.find_candidates(job)
  local found, list = job_of(job, 1, "find_candidates"), {}
  local scope = found and found.model_ref and M.scope_of(M.resolve(found.model_ref))
  if scope and scope.open > 0 then
    for _, node in ipairs(scope.members) do
      if node.open and not unfit(found, V.worker(node)) then list[#list + 1] = V.worker(node) end
    end
  end
  return V.own_workers(list)
end

-- Of nodes, whose records cost less to read than their views.
local function fits_job(node, job) return node.open and not unfit_on(job, node.raw, true) end

-- Earlier end, then the order of loads; a worker whose speed nobody measured comes after those that were.
local function ends_earlier(a, a_ms, b, b_ms)
  if a_ms ~= b_ms then return (a_ms or huge) < (b_ms or huge) end
  if a.load ~= b.load then return a.load < b.load end
  if a.vram_free ~= b.vram_free then return a.vram_free > b.vram_free end
  return a.id < b.id
end

-- The fastest fitting worker of the pools that a job prefers; nil if there is none.
local function fastest_preferred(job, model)
  local best
  for _, pool in ipairs(M.csv(job.prefer_pool_ids)) do
    local worker = worker_or_nil(M.first(model, pool, "speed", fits_job, job))
    if worker and (not best or ends_earlier(worker, duration_on(job, worker), best, duration_on(job, best))) then
      best = worker
    end
  end
  return best
end

-- The fastest fitting worker ends first, unless one that holds part of the prompt does: only those two kinds compete,
-- and only in preferred pools if one of them has a place.
local function best_for(job)
  local node = M.jobs[job.id]
  if node and node.view == job then job = node.raw end
  local model = M.resolve(job.model_ref)
  local preferred = (job.prefer_pool_ids or "") ~= "" and fastest_preferred(job, model) or nil
  local best = preferred or worker_or_nil(M.first(model, nil, "speed", fits_job, job))
  if not best then return nil end
  local best_ms = duration_on(job, best)
  local holders = job.prompt_hash and M.prefix_holders[job.prompt_hash]
  for id in next, holders or {} do
    local worker = V.worker(M.workers[id])
    if not unfit(job, worker) and not (preferred and not lists(job.prefer_pool_ids, worker.pool_id)) then
      local ms = duration_on(job, worker)
      if ends_earlier(worker, ms, best, best_ms) then best, best_ms = worker, ms end
    end
  end
  return best
end

-- Of a job, or of a model; also called as find_best_worker(pools, model_ref).
function H.find_best_worker(wanted, model_ref)
  if type(wanted) == "table" and model_ref ~= nil then
    wanted = text(model_ref, 2, "find_best_worker")
  end
  if type(wanted) == "string" then
    local node = M.jobs[wanted]
    if not node then return worker_or_nil(M.best(M.resolve(wanted), nil, "speed")) end
    wanted = V.job(node)
  end
  if type(wanted) ~= "table" then bad(1, "find_best_worker", "job or model", wanted) end
  if type(wanted.model_ref) ~= "string" then return nil end
  return best_for(wanted)
end

function H.prefix_overlap(worker, job)
  local on, found = worker_of(worker, 1, "prefix_overlap"), job_of(job, 2, "prefix_overlap")
  return on and found and cached_tokens(found, on) or 0
end

-- ---------------------------------------------------------------------------------------------------------------------
-- Lists of workers

local L = V.worker_methods

local function keep(list, fits)
  local kept = {}
  for _, worker in ipairs(list) do
    if fits(worker) then kept[#kept + 1] = worker end
  end
  return V.own_workers(kept)
end

function L.filter(list, wanted) return keep(list, predicate(wanted, 1, "filter")) end

function L.with_model(list, model_ref)
  local model = M.resolve(text(model_ref, 1, "with_model"))
  local is_scope, of, pool = V.scope_of(list)
  if is_scope and (of == nil or of == model) then return V.workers(M.scope_of(model, pool), model, pool) end
  return keep(list, function(worker) return worker.model_ref == model end)
end

function L.in_pool(list, pool_id)
  text(pool_id, 1, "in_pool")
  return keep(list, function(worker) return worker.pool_id == pool_id end)
end

local function is_idle(worker)
  return is_open(worker) and worker.slots_free >= number_or(worker.slots_total, worker.slots_free)
end

function L.idle(list) return keep(list, is_idle) end

function L.ready(list) return keep(list, is_open) end

function L.with_capacity(list, bytes)
  local least = amount(bytes, 1, "with_capacity")
  return keep(list, function(worker) return least ~= nil and worker.vram_free >= least end)
end

local function least(list, before)
  local best
  for _, worker in ipairs(list) do
    if is_open(worker) and (not best or before(worker, best)) then best = worker end
  end
  return best
end

local function lighter(a, b)
  if a.load ~= b.load then return a.load < b.load end
  if a.vram_free ~= b.vram_free then return a.vram_free > b.vram_free end
  return a.id < b.id
end

local function roomier(a, b)
  if a.vram_free ~= b.vram_free then return a.vram_free > b.vram_free end
  if a.load ~= b.load then return a.load < b.load end
  return a.id < b.id
end

function L.least_loaded(list)
  local is_scope, model, pool = V.scope_of(list)
  if is_scope then return worker_or_nil(M.best(model, pool, "load")) end
  return least(list, lighter)
end

function L.most_vram_free(list)
  local is_scope, model, pool = V.scope_of(list)
  if is_scope then return worker_or_nil(M.best(model, pool, "vram")) end
  return least(list, roomier)
end

function L.round_robin(list)
  local is_scope, model, pool = V.scope_of(list)
  if is_scope then return scope_turn(model, pool) end
  local open, ids = {}, { "list" }
  for _, worker in ipairs(list) do
    if is_open(worker) then
      open[#open + 1] = worker
      ids[#ids + 1] = worker.id
    end
  end
  if #open == 0 then return nil end
  sort(open, longer_unused)
  return take_turn(concat(ids, "\31"), function() return open[1] end, function() return open end)
end

-- The worker with the least (sign 1) or most (sign -1) key; one without a key is passed over.
local function extreme(list, key, sign, name)
  if type(key) == "string" then
    local field = key
    key = function(worker) return worker[field] end
  end
  callable(key, 1, name)
  local best, best_key
  for _, worker in ipairs(list) do
    local value = key(worker)
    if type(value) == "number" and value == value then
      value = value * sign
      if not best or value < best_key or value == best_key and worker.id < best.id then
        best, best_key = worker, value
      end
    end
  end
  return best
end

function L.min_by(list, key) return (extreme(list, key, 1, "min_by")) end

function L.max_by(list, key) return (extreme(list, key, -1, "max_by")) end

function L.first(list) return list[1] end

-- The workers that hold part of a job's prompt in their cache, those with the most of it first.
function L.prefix_overlap(list, job)
  local found = job_of(job, 1, "prefix_overlap")
  if not found then return V.own_workers({}) end
  local held = keep(list, function(worker) return cached_tokens(found, worker) > 0 end)
  sort(held, function(a, b)
    local left, right = cached_tokens(found, a), cached_tokens(found, b)
    if left ~= right then return left > right end
    return a.id < b.id
  end)
  return held
end

-- ---------------------------------------------------------------------------------------------------------------------
-- Pools

local function pool_node(value, number, name)
  if type(value) == "table" then value = value.id end
  return M.pools[text(value, number, name)]
end

function H.get_pool(id)
  local node = M.pools[text(id, 1, "get_pool")]
  return node and V.pool(node)
end

function H.filter_pools(wanted)
  local fits, found = predicate(wanted, 1, "filter_pools"), {}
  for _, pool in ipairs(V.pools()) do
    if fits(pool) then found[#found + 1] = pool end
  end
  return found
end

-- A report older than this makes a pool stale, unless `config.pool_stale_ms` says otherwise.
local POOL_STALE_MS = 5000

local function healthy(node)
  local raw = node.raw
  if raw.status ~= "healthy" and raw.status ~= "ready" and raw.status ~= "online" then return false end
  return M.now - raw.last_report_ms <= number_or(M.config_values.pool_stale_ms, POOL_STALE_MS)
end

function H.is_pool_healthy(id)
  local node = pool_node(id, 1, "is_pool_healthy")
  return node ~= nil and healthy(node)
end

-- Healthy pools where one GPU, or one worker of a pool without GPUs, has so much VRAM free; by id.
function H.find_pools_with_capacity(bytes)
  local wanted, found = amount(bytes, 1, "find_pools_with_capacity"), {}
  if not wanted then return found end
  for _, node in ipairs(M.pool_list) do
    local fits = false
    for _, gpu in ipairs(node.gpu_list) do fits = fits or gpu.raw.vram_free >= wanted end
    if #node.gpu_list == 0 then fits = M.best(nil, node.id, "vram", wanted) ~= nil end
    if fits and healthy(node) then found[#found + 1] = V.pool(node) end
  end
  return found
end

local function vram_use(node)
  local allocated, total = 0, 0
  for _, gpu in ipairs(node.gpu_list) do
    allocated, total = allocated + gpu.raw.vram_allocated, total + gpu.raw.vram_total
  end
  return allocated, total
end

-- Allocated VRAM over all VRAM; for a pool without GPUs, busy slots over all slots.
function H.get_pool_utilization(id)
  local node = pool_node(id, 1, "get_pool_utilization")
  if not node then return nil end
  local used, total = vram_use(node)
  if total == 0 then
    for _, worker in ipairs(M.pool_scopes[node.id] and M.pool_scopes[node.id].members or {}) do
      used, total = used + worker.raw.slots_total - worker.raw.slots_free, total + worker.raw.slots_total
    end
  end
  return total > 0 and used / total or 0
end

-- ---------------------------------------------------------------------------------------------------------------------
-- GPUs

-- A GPU record; or one by (pool_id, gpu_id); or by its id alone, in the first pool that has it.
local function gpu_of(gpu, id, name)
  if type(gpu) == "table" then return gpu end
  if id ~= nil then
    local node = M.find_gpu(text(gpu, 1, name), id)
    return node and V.gpu(node)
  end
  if type(gpu) ~= "string" and type(gpu) ~= "number" then bad(1, name, "GPU or its id", gpu) end
  for _, pool in ipairs(M.pool_list) do
    local node = M.find_gpu(pool.id, gpu)
    if node then return V.gpu(node) end
  end
  return nil
end

function H.get_gpu(pool_id, gpu_id)
  text(pool_id, 1, "get_gpu")
  if type(gpu_id) ~= "string" and type(gpu_id) ~= "number" then bad(2, "get_gpu", "id", gpu_id) end
  local node = M.find_gpu(pool_id, gpu_id)
  return node and V.gpu(node)
end

-- All GPUs with so much VRAM free, the freest first.
function H.find_gpus_with_vram(bytes)
  local wanted, found = amount(bytes, 1, "find_gpus_with_vram"), {}
  if not wanted then return found end
  for _, pool in ipairs(M.pool_list) do
    for _, node in ipairs(pool.gpu_list) do
      if node.raw.vram_free >= wanted then found[#found + 1] = node end
    end
  end
  sort(found, function(a, b)
    if a.raw.vram_free ~= b.raw.vram_free then return a.raw.vram_free > b.raw.vram_free end
    if a.pool ~= b.pool then return a.pool < b.pool end
    return a.key < b.key
  end)
  for at, node in ipairs(found) do found[at] = V.gpu(node) end
  return found
end

local function gpu_field(name, field)
  H[name] = function(gpu, id)
    local found = gpu_of(gpu, id, name)
    return found and found[field]
  end
end
gpu_field("gpu_vram_total", "vram_total")
gpu_field("gpu_vram_free", "vram_free")
gpu_field("gpu_vram_allocated", "vram_allocated")
gpu_field("gpu_device_name", "name")

-- Whether a model could ever be loaded on a GPU.
function H.check_gpu_compatibility(gpu, model_ref)
  local found = gpu_of(gpu, nil, "check_gpu_compatibility")
  local model = M.models[M.resolve(text(model_ref, 2, "check_gpu_compatibility"))]
  if not found then return false, "gpu_unknown" end
  if not model then return false, "model_unknown" end
  if number_or(found.vram_total, 0) < model.raw.vram_required then return false, "insufficient_vram" end
  return true
end

-- Mean decode speed that workers of a model measured on GPUs of this name; of the model at all, if none did; else 0.
function H.estimate_performance(model_ref, gpu)
  local model = M.resolve(text(model_ref, 1, "estimate_performance"))
  local found, scope = gpu_of(gpu, nil, "estimate_performance"), M.scope_of(model)
  local alike, alike_n, all, all_n = 0, 0, 0, 0
  for _, node in ipairs(scope and scope.members or {}) do
    local worker = node.raw
    if worker.tokens_per_s > 0 then
      all, all_n = all + worker.tokens_per_s, all_n + 1
      local on = M.find_gpu(worker.pool_id, M.csv(worker.gpu_ids_csv)[1])
      if found and on and on.raw.name == found.name then
        alike, alike_n = alike + worker.tokens_per_s, alike_n + 1
      end
    end
  end
  if alike_n > 0 then return alike / alike_n end
  return all_n > 0 and all / all_n or 0
end

-- ---------------------------------------------------------------------------------------------------------------------
-- Models

local function is_known(ref) return M.models[ref] ~= nil or M.scope_of(ref) ~= nil end

function H.resolve_model(name)
  local ref = M.resolve(text(name, 1, "resolve_model"))
  return (M.aliases[name] or is_known(ref)) and ref or nil
end

function H.get_model(name)
  local node = M.models[M.resolve(text(name, 1, "get_model"))]
  return node and V.model(node)
end

-- Whether the catalog or any worker knows the model.
function H.model_exists(name) return is_known(M.resolve(text(name, 1, "model_exists"))) end

local function models_where(fits)
  local refs, found = {}, {}
  for ref in next, M.models do refs[#refs + 1] = ref end
  sort(refs)
  for _, ref in ipairs(refs) do
    local model = V.model(M.models[ref])
    if fits(model) then found[#found + 1] = model end
  end
  return found
end

function H.filter_models(wanted) return models_where(predicate(wanted, 1, "filter_models")) end

function H.find_models_by_family(family)
  text(family, 1, "find_models_by_family")
  return models_where(function(model) return model.family == family end)
end

function H.get_model_vram(name)
  local node = M.models[M.resolve(text(name, 1, "get_model_vram"))]
  return node and node.raw.vram_required
end

-- ---------------------------------------------------------------------------------------------------------------------
-- Tenants

-- Whether a tenant's quotas leave room for a job, or for an amount of VRAM in bytes.
function H.check_tenant_quota(tenant, wanted)
  local node = M.tenants[tenant]
  -- The record itself costs less to read than its view, and this is asked of tenant after tenant.
  local found = node and node.raw or tenant_of(tenant, 1, "check_tenant_quota")
  if type(wanted) == "string" then wanted = job_of(wanted, 2, "check_tenant_quota") or 0 end
  if type(wanted) == "table" then wanted = number_or(wanted.estimated_vram_bytes, 0) end
  local bytes = amount(wanted or 0, 2, "check_tenant_quota")
  if not found then return false, "tenant_unknown" end
  if not bytes then return false, "amount_invalid" end
  if found.quota_vram and found.quota_used + bytes > found.quota_vram then return false, "vram_quota_exceeded" end
  if found.quota_jobs and found.jobs_running >= found.quota_jobs then return false, "job_quota_exceeded" end
  return true
end
H.check_quota = H.check_tenant_quota

function H.get_tenant_usage(tenant)
  local found = tenant_of(tenant, 1, "get_tenant_usage")
  if not found then return nil end
  return {
    vram = found.quota_used, jobs_running = found.jobs_running, jobs_waiting = found.jobs_waiting,
    tokens_served = found.tokens_served, tokens_per_minute = found.tokens_per_minute,
  }
end

-- Whether a tenant uses all it may: nothing more should start.
function H.tenant_over_quota(tenant)
  local found = tenant_of(tenant, 1, "tenant_over_quota")
  if not found then return true end
  return (found.quota_vram ~= nil and found.quota_used >= found.quota_vram)
    or (found.quota_jobs ~= nil and found.jobs_running >= found.quota_jobs)
end

-- Bytes of VRAM left, never negative; infinite without a quota.
function H.tenant_remaining_quota(tenant)
  local found = tenant_of(tenant, 1, "tenant_remaining_quota")
  if not found then return 0 end
  if not found.quota_vram then return huge end
  local left = found.quota_vram - found.quota_used
  return left > 0 and left or 0
end

-- What the tenant would use with the job running, in bytes.
function H.estimate_quota_impact(tenant, job)
  local found, asked = tenant_of(tenant, 1, "estimate_quota_impact"), job_of(job, 2, "estimate_quota_impact")
  if not found or not asked then return nil end
  return found.quota_used + number_or(asked.estimated_vram_bytes, 0)
end

-- Tokens that a tenant is behind its weighted share of what all tenants were served; negative: ahead of it.
local shares = { version = -1 }
function H.fair_share_deficit(tenant)
  local found = tenant_of(tenant, 1, "fair_share_deficit")
  if not found then return 0 end
  if shares.version ~= M.tenant_version then
    shares = { version = M.tenant_version, tokens = 0, weight = 0 }
    for _, node in ipairs(M.tenant_list) do
      shares.tokens, shares.weight = shares.tokens + node.raw.tokens_served, shares.weight + node.raw.weight
    end
  end
  if shares.weight <= 0 then return 0 end
  return shares.tokens * found.weight / shares.weight - found.tokens_served
end

-- ---------------------------------------------------------------------------------------------------------------------
-- Eviction: only workers that hold no job are ever named.

local function evictable(name, pool, order)
  if type(pool) == "table" then pool = pool.id end
  return worker_or_nil(M.first(nil, optional_text(pool, 1, name), order))
end

function H.find_worker_to_evict_lru(pool_id) return evictable("find_worker_to_evict_lru", pool_id, "lru") end

function H.find_worker_to_evict_lfu(pool_id) return evictable("find_worker_to_evict_lfu", pool_id, "lfu") end

-- Idle workers, the longest unused first.
function H.idle_workers(pool_id)
  local scope, found = M.scope_of(nil, optional_text(pool_id, 1, "idle_workers")), {}
  for _, node in ipairs(scope and scope.members or {}) do
    if node.idle then found[#found + 1] = V.worker(node) end
  end
  sort(found, longer_unused)
  return V.own_workers(found)
end

-- Part of a pool's VRAM above which something should go, unless `config.evict_above` says otherwise.
local EVICT_ABOVE = 0.9

-- Whether a pool's VRAM is fuller than it should be, and by how many bytes.
function H.should_evict(pool)
  local node = pool_node(pool, 1, "should_evict")
  if not node then return false, 0 end
  local allocated, total = vram_use(node)
  local exceeded = allocated - floor(total * number_or(M.config_values.evict_above, EVICT_ABOVE))
  if exceeded > 0 and total > 0 then return true, exceeded end
  return false, 0
end

-- The model of a pool for which no job waits and all of whose workers idle, the longest unused; nil if there is none.
function H.find_model_to_evict(pool)
  local node = pool_node(pool, 1, "find_model_to_evict")
  local scope = node and M.pool_scopes[node.id]
  local used, busy = {}, {}
  for _, worker in ipairs(scope and scope.members or {}) do
    local model = worker.model
    if not worker.idle then busy[model] = true end
    if not used[model] or worker.used > used[model] then used[model] = worker.used end
  end
  local best
  for model, at in next, used do
    local waits = false
    for rank = 1, #M.CLASSES do waits = waits or M.waiting_for(rank, model) > 0 end
    if not busy[model] and not waits and (not best or at < used[best] or at == used[best] and model < best) then
      best = model
    end
  end
  return best
end

-- Whether the waiting job would fit the worker of a running one, were that one gone.
local function fits_after(run, job)
  local node = M.workers[run.raw.worker_id]
  local raw = node.raw
  if M.POOL_CLOSED[M.pools[node.pool].raw.status] then return false end
  local kv = raw.kv_free_tokens
  local freed = { slots_free = raw.slots_free + 1, kv_free_tokens = kv and kv + run.raw.kv_tokens }
  -- Not a view of the worker, so that it counts as open by its own figures.
  return not unfit(job, setmetatable(freed, { __index = V.worker(node) }))
end

-- The running job that should make way for a waiting one of its model: the least urgent, then the youngest, of those on
-- whose worker the waiting one would fit; nil if all are as urgent as the waiting one.
function H.find_job_to_preempt(job)
  local found = job_of(job, 1, "find_job_to_preempt")
  local rank = found and M.RANK[found.priority]
  local run = rank and M.victim(M.resolve(found.model_ref), rank, fits_after, found)
  return run and V.run(run)
end

-- Models for which jobs of a class wait while less urgent ones run and none is stopping, in the order of their names.
function H.models_to_preempt(priority)
  local rank, found = rank_of(priority, 1, "models_to_preempt"), {}
  if next(M.victims) == nil then return found end
  for model in next, M.classes[rank].models do
    local ref = M.resolve(model)
    if not M.stopping[ref] and M.victim(ref, rank) then found[#found + 1] = model end
  end
  sort(found)
  return found
end

-- How many jobs of a model were told to stop and have not yet: their slots are about to be free.
function H.count_stopping(model_ref) return M.stopping[M.resolve(text(model_ref, 1, "count_stopping"))] or 0 end

-- ---------------------------------------------------------------------------------------------------------------------
-- Room for models that no worker serves

-- The catalogue's entry of a job's model, if a worker of it could take the job at all.
local function loadable(job)
  local node = M.models[M.resolve(job.model_ref)]
  if not node then return nil end
  local context = number_or(job.min_context_tokens, 0)
  if context > 0 and node.raw.context < context then return nil end
  if (job.quantizations or "") ~= "" and not lists(job.quantizations, node.raw.quantization) then return nil end
  return node.raw
end

-- Whether a model could be loaded on a GPU for a job, if so many bytes more were free.
local function room_on(gpu, model, job, bytes_more)
  local raw = gpu.raw
  if raw.vram_free + bytes_more < model.vram_required then return false end
  if M.POOL_CLOSED[M.pools[gpu.pool].raw.status] then return false end
  if (job.pin_pool_id or "") ~= "" and job.pin_pool_id ~= gpu.pool then return false end
  if (job.avoid_pool_ids or "") ~= "" and lists(job.avoid_pool_ids, gpu.pool) then return false end
  local wanted = capability_number(job.min_compute_capability)
  local has = wanted and capability_number(raw.compute_capability)
  return not wanted or (has ~= nil and has >= wanted)
end

local function has_room(gpu, job)
  local model = loadable(job)
  return model ~= nil and room_on(gpu, model, job, 0)
end

-- The GPU with the most free memory on which a worker for a job could be started; nil if there is none.
function H.find_gpu_for_job(job)
  local found = job_of(job, 1, "find_gpu_for_job")
  local model, most = found and loadable(found), M.roomiest[1]
  if not model or not most or most.raw.vram_free < model.vram_required then return nil end
  local node = M.heap_search(M.roomiest, has_room, found)
  return node and V.gpu(node)
end

local function is_wanted(model)
  for rank = 1, #M.CLASSES do
    if M.waiting_for(rank, model) > 0 then return true end
  end
  return false
end

local function makes_room(node, job)
  if is_wanted(node.model) then return false end
  local ids = M.csv(node.raw.gpu_ids_csv)
  local gpu = ids[1] and M.find_gpu(node.pool, ids[1])
  if not gpu then return false end
  local held = M.models[node.model]
  return room_on(gpu, loadable(job), job, held and held.raw.vram_required // #ids or 0)
end

-- The longest unused idle worker that nobody waits for and without which a worker for a job could be started.
function H.find_worker_to_make_room(job)
  local found = job_of(job, 1, "find_worker_to_make_room")
  if not found or not loadable(found) then return nil end
  return worker_or_nil(M.first(nil, nil, "lru", makes_room, found))
end

-- ---------------------------------------------------------------------------------------------------------------------
-- Small things

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

-- ---------------------------------------------------------------------------------------------------------------------
-- History and the platform policy

function H.get_historical_metrics(model_ref, device)
  local model = M.resolve(text(model_ref, 1, "get_historical_metrics"))
  local devices = M.histories[model]
  if optional_text(device, 2, "get_historical_metrics") == nil then
    local mean, p95 = history_of(model)
    if not mean then return nil end
    local jobs = 0
    for _, node in next, devices do jobs = jobs + node.raw.n end
    return { model_ref = model, mean_ms = mean, p95_ms = p95, n = jobs }
  end
  local node = devices and devices[device]
  return node and V.history(node)
end

-- Milliseconds that jobs of this model took (mean and 95th percentile); without any, the estimate twice.
function H.predict_job_duration(job)
  local found = job_of(job, 1, "predict_job_duration")
  if not found then return nil end
  local mean, p95 = history_of(M.resolve(found.model_ref))
  if mean then return whole(mean), whole(p95) end
  local estimate = whole(number_or(found.estimated_duration_ms, 0))
  return estimate, estimate
end

-- Whoever loads the mirror gives it the platform policy: `M.platform = { schedule = ..., source = "..." }`.
function H.platform_schedule()
  if not M.platform then error("the platform policy is not loaded here", 2) end
  return M.platform.schedule(V.context)
end

function H.get_platform_scheduler_source() return M.platform and M.platform.source end

-- The table `platform` of a policy's environment.
M.platform_table = V.map({ schedule = H.platform_schedule, get_source = H.get_platform_scheduler_source })

-- ---------------------------------------------------------------------------------------------------------------------
-- Both call styles

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
return H
