-- Where a job can run, and where best.

local M, V, H, K = ...

local ipairs, next, type = ipairs, next, type
local huge, match_text = math.huge, string.match
local text, bad, job_of, worker_of, number_or = K.text, K.bad, K.job_of, K.worker_of, K.number_or
local worker_or_nil, duration_on = K.worker_or_nil, K.duration_on

-- "8.6" as 8 006, so that 8.10 is more than 8.9; nil for what is no version.
local function capability_number(version)
  local major, minor = match_text(version or "", "^(%d+)%.?(%d*)$")
  return major and (major + 0) * 1000 + (minor ~= "" and minor + 0 or 0)
end
K.capability_number = capability_number

local function lists(csv, wanted)
  for _, each in ipairs(M.csv(csv)) do
    if each == wanted then return true end
  end
  return false
end
K.lists = lists

-- The context that a job needs for certain: its prompt may be half as long as estimated, and the worker counts.
function K.window_tokens(job) return number_or(job.prompt_tokens, 0) // 2 + number_or(job.max_tokens, 0) end

-- Whether every GPU of a worker is one that `serves`; a worker without known GPUs has none that is.
local function all_gpus(worker, serves, wanted)
  local ids = worker.gpu_ids
  if not ids or #ids == 0 then return false end
  for _, id in ipairs(ids) do
    local gpu = M.find_gpu(worker.pool_id, id)
    if not gpu or not serves(gpu.raw, wanted) then return false end
  end
  return true
end

local function computes(gpu, wanted)
  local has = capability_number(gpu.compute_capability)
  return has ~= nil and has >= wanted
end

local function is_large(gpu, bytes) return gpu.vram_total >= bytes end

-- Why a worker is no place for a job that has demands; nil if it is one.
local function demand_unmet(job, worker)
  local context = number_or(job.min_context_tokens, 0)
  if context > 0 and number_or(worker.context_tokens, 0) < context then return "context_too_small" end
  if (job.quantizations or "") ~= "" and not lists(job.quantizations, worker.quantization) then
    return "quantization_mismatch"
  end
  if (job.pin_pool_id or "") ~= "" and job.pin_pool_id ~= worker.pool_id then return "pool_excluded" end
  if (job.avoid_pool_ids or "") ~= "" and lists(job.avoid_pool_ids, worker.pool_id) then return "pool_excluded" end
  if (job.extensions or "") ~= "" then
    for _, word in ipairs(M.csv(job.extensions)) do
      if not lists(worker.extensions, word) then return "extension_missing" end
    end
  end
  local wanted = capability_number(job.min_compute_capability)
  if wanted and not all_gpus(worker, computes, wanted) then return "compute_capability_too_low" end
  local bytes = number_or(job.min_vram_bytes, 0)
  if bytes > 0 and not all_gpus(worker, is_large, bytes) then return "device_too_small" end
  return nil
end

local function is_open(worker)
  local node = M.workers[worker.id]
  if node and V.worker(node) == worker then return node.open end
  return (worker.status == "ready" or worker.status == "busy") and number_or(worker.slots_free, 0) > 0
end
K.is_open = is_open

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
  if window > 0 and window < K.window_tokens(job) then return "context_too_small" end
  return demand_unmet(job, worker)
end

local function unfit(job, worker) return unfit_on(job, worker, is_open(worker)) end
K.unfit = unfit

function H.can_job_fit(job, worker)
  local found, on = job_of(job, 1, "can_job_fit"), worker_of(worker, 2, "can_job_fit")
  if not found then return false, "job_unknown" end
  if not on then return false, "worker_unknown" end
  local reason = unfit(found, on)
  if reason then return false, reason end
  return true
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
local function fits_job(node, job) return not unfit_on(job, node.raw, node.open) end

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
    local node = M.first(model, pool, "speed", fits_job, job)
    local worker = node and node.raw
    if worker and (not best or ends_earlier(worker, duration_on(job, worker), best, duration_on(job, best))) then
      best = worker
    end
  end
  return best
end

-- The fastest worker of a model that a job fits; of the mirror's own jobs the plain ones are placed with less ado.
local function fastest(job, model)
  if K.plain_node(job) then
    return M.place_for(model, job.prompt_tokens, job.max_tokens, job.estimated_vram_bytes)
  end
  return M.first(model, nil, "speed", fits_job, job)
end

-- The fastest fitting worker ends first, unless one that holds part of the prompt does: only those two kinds compete,
-- and only in preferred pools if one of them has a place.
local function best_for(job)
  local model = M.resolve(job.model_ref)
  local prefers = (job.prefer_pool_ids or "") ~= ""
  local best = prefers and fastest_preferred(job, model)
  local preferred = best
  if not best then
    local node = fastest(job, model)
    best = node and node.raw
  end
  if not best then return nil end
  local holders = job.prompt_hash and M.prefix_holders[job.prompt_hash]
  if holders then
    local best_ms = duration_on(job, best)
    for id in next, holders do
      local node = M.workers[id]
      local worker = node.raw
      if not unfit_on(job, worker, node.open) and not (preferred and not lists(job.prefer_pool_ids, node.pool)) then
        local ms = duration_on(job, worker)
        if ends_earlier(worker, ms, best, best_ms) then best, best_ms = worker, ms end
      end
    end
  end
  return V.worker(M.workers[best.id])
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
