-- Policy "every action": compiled from YAML by Beeyard. Change the YAML and compile it again.
-- Rules are tried in this order. A rule acts on the first queued job that meets its condition and for which
-- its action can be done; the first rule that acts makes the decision.

-- Whether a pattern is found in a text. What is absent or longer than `longest` bytes matches nothing.
local function matches(text, pattern, longest)
  return text ~= nil and text ~= "" and #text <= longest and string.find(text, pattern) ~= nil
end

local function is_one_of(value, list)
  return value ~= nil and list[value] == true
end

-- The tenant of a job; of one that is not known, nothing is. Tenants are looked up once a decision.
local tenants
local function tenant_of(context, job)
  if not tenants then
    tenants = {}
    for _, tenant in ipairs(context.tenants) do tenants[tenant.id] = tenant end
  end
  return tenants[job.tenant_id] or {}
end

-- Whether any worker of its model with enough memory will do for a job.
local function has_no_demands(job)
  return (job.engine or "") == "" and (job.min_context_tokens or 0) == 0 and (job.quantizations or "") == ""
    and (job.pin_pool_id or "") == "" and (job.avoid_pool_ids or "") == "" and (job.min_compute_capability or "") == ""
    and (job.min_vram_bytes or 0) == 0 and (job.extensions or "") == ""
end

-- Workers that can take a job now. A job that needs as much as one that found none finds none, either: this is kept for
-- one decision, so that a long queue costs little while nothing fits.
local refused
local function candidates(context, job)
  local bytes, tokens = job.estimated_vram_bytes or 0, job.prompt_tokens + job.max_tokens
  local least = refused[job.model_ref]
  if least and bytes >= least.bytes and tokens >= least.tokens then return least.workers end
  local workers = context.helpers.find_candidates(job)
  if #workers == 0 and bytes >= 0 and has_no_demands(job) then
    if not least or bytes <= least.bytes and tokens <= least.tokens then
      refused[job.model_ref] = { bytes = bytes, tokens = tokens, workers = workers }
    end
  end
  return workers
end

-- The nearest to the job's user of the workers whose place is known; without places, the least loaded.
local function nearest(context, job, workers)
  local here = job.user.geo
  local placed = workers:filter(function(worker) return here ~= nil and worker.geo ~= nil end)
  return placed:min_by(function(worker) return context.helpers.distance(here, worker.geo) end)
    or workers:least_loaded()
end

-- Whether a worker of a model has a free slot, or is starting.
local function is_served(context, model_ref)
  for _, worker in ipairs(context.helpers.find_workers_by_model(model_ref)) do
    local is_up = worker.status == "ready" or worker.status == "busy"
    if worker.status == "starting" or is_up and worker.slots_free > 0 then return true end
  end
  return false
end

-- The best GPU with room for a model that nobody serves, on a healthy pool, and its pool. `tried` remembers models.
local function room_for(context, model_ref, pool_id, tried, is_better)
  if tried[model_ref] then return nil end
  tried[model_ref] = true
  if is_served(context, model_ref) then return nil end
  local need = context.helpers.get_model_vram(model_ref) or 0
  local best, home
  for _, pool in ipairs(context.pools) do
    if (pool_id == nil or pool.id == pool_id) and context.helpers.is_pool_healthy(pool.id) then
      for _, gpu in ipairs(pool.gpus) do
        if gpu.vram_free >= need and (best == nil or is_better(gpu, best)) then
          best, home = gpu, pool
        end
      end
    end
  end
  return best, home
end

-- The running job that makes way for another one, if its class is below `below`; none where a worker can take the job.
local function victim_for(context, job, below)
  if candidates(context, job):first() then return nil end
  local running = context.helpers.find_job_to_preempt(job)
  local rank = { interactive = 1, normal = 2, batch = 3, background = 4 }
  if running and rank[running.priority] > rank[below] then return running end
  return nil
end

local rules = {}

-- Rule "hold back while little waits", priority 90 (YAML line 5)
rules[1] = function(context)
  if
    context.metrics.queue_depth < 3 -- YAML line 7
    and context.metrics.busy_workers >= 1 -- YAML line 8
  then
    return { action = "wait", retry_after_ms = 500, reason = "rule hold back while little waits" }
  end
end

-- Rule "tenants beyond their share", priority 80 (YAML line 11)
rules[2] = function(context)
  for _, job in ipairs(context.queue) do
    if
      (tenant_of(context, job).jobs_running ~= nil and tenant_of(context, job).jobs_running > 8) -- YAML line 14
      and not (
        (job.priority == "interactive" or job.priority == "normal") -- YAML line 15
      )
    then
      return { action = "reject", job_id = job.id, reason = "tenant \"runs\" too much" }
    end
  end
end

-- Rule "urgent work takes room", priority 70 (YAML line 18)
rules[3] = function(context)
  for _, job in ipairs(context.queue) do
    if
      job.priority == "interactive" -- YAML line 19
      and job.attempt <= 2 -- YAML line 19
    then
      local victim = victim_for(context, job, "normal")
      if victim then
        return { action = "preempt", job_id = victim.id, for_job_id = job.id, reason = "rule urgent work takes room" }
      end
    end
  end
end

-- Rule "llamas near their users", priority 60 (YAML line 22)
rules[4] = function(context)
  local tried = {}
  for _, job in ipairs(context.queue) do
    if
      (
        matches(job.model_ref, "^llama%-%d+b$", 256) -- YAML line 25
        or (
          context.helpers.string_starts_with(job.model_ref, "meta-llama/") -- YAML line 26
          and job.model_ref ~= "meta-llama/old" -- YAML line 26
        )
        or context.helpers.string_contains(job.labels["team"] or "", "lama") -- YAML line 27
      )
      and job.user.geo ~= nil -- YAML line 28
      and job.deadline_ms == nil -- YAML line 29
    then
      local workers = candidates(context, job)
      local worker = nearest(context, job, workers)
      if worker then
        return { action = "dispatch", job_id = job.id, worker_id = worker.id, reason = "rule llamas near their users" }
      end
      local gpu, pool = room_for(context, job.model_ref, nil, tried, function(gpu, best)
        return gpu.vram_free > best.vram_free
      end)
      if gpu then
        local start = { model_ref = job.model_ref, pool_id = pool.id, gpu_id = gpu.id }
        return { action = "start_worker", start_worker = start, reason = "rule llamas near their users" }
      end
    end
  end
end

-- Rule "anything else", priority 50 (YAML line 32)
rules[5] = function(context)
  local list_1 = { ["t1"] = true, ["t2"] = true, ["t3"] = true, ["t4"] = true, ["t5"] = true }
  for _, job in ipairs(context.queue) do
    if not is_one_of(job.tenant_id, list_1) then -- YAML line 34
      local workers = candidates(context, job)
      local worker = workers:prefix_overlap(job):first() or workers:least_loaded()
      if worker then
        return { action = "dispatch", job_id = job.id, worker_id = worker.id, reason = "rule anything else" }
      end
    end
  end
end

-- Rule "have a model loaded", priority 40 (YAML line 37)
rules[6] = function(context)
  local tried = {}
  for _, job in ipairs(context.queue) do
    if job.wait_time_ms > 2500.5 then -- YAML line 38
      local gpu, pool = room_for(context, job.model_ref, "pool-1", tried, function(gpu, best)
        return (gpu.utilization or 0) < (best.utilization or 0)
      end)
      if gpu then
        local start = { model_ref = job.model_ref, pool_id = pool.id, gpu_id = gpu.id }
        return { action = "start_worker", start_worker = start, reason = "rule have a model loaded" }
      end
    end
  end
end

-- Rule "make room", priority 30 (YAML line 41)
rules[7] = function(context)
  if context.metrics.queue_depth > 100 then -- YAML line 42
    local worker = context.helpers.find_worker_to_evict_lfu()
    if worker then
      return { action = "evict", evict_worker_id = worker.id, reason = "rule make room" }
    end
  end
end

-- Rule "this one, too", priority 20 (YAML line 45)
rules[8] = function(context)
  local worker = context.helpers.idle_workers():filter(function(worker) return worker.id == "worker-9" end):first()
  if worker then
    return { action = "evict", evict_worker_id = worker.id, reason = "rule this one, too" }
  end
end

-- Rule "the rest", priority 0 (YAML line 49)
rules[9] = function(context)
  return platform.schedule(context)
end

function schedule(context)
  tenants = nil
  refused = {}
  for _, rule in ipairs(rules) do
    local decision = rule(context)
    if decision then return decision end
  end
  return { action = "wait", reason = "no rule applies" }
end
