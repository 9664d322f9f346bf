-- Policy "determinism-first", version 1.0: compiled from YAML by Beeyard. Change the YAML and compile it again.
-- Rules are tried in this order. A rule acts on the first queued job that meets its condition and for which
-- its action can be done; the first rule that acts makes the decision.

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

local rules = {}

-- Rule "prioritize-seeded-jobs", priority 100 (YAML line 6)
rules[1] = function(context)
  for _, job in ipairs(context.queue) do
    if job.seed ~= nil then -- YAML line 8
      local workers = candidates(context, job)
      local worker = workers:least_loaded()
      if worker then
        return { action = "dispatch", job_id = job.id, worker_id = worker.id, reason = "rule prioritize-seeded-jobs" }
      end
    end
  end
end

-- Rule "batch-jobs-low-priority", priority 50 (YAML line 15)
rules[2] = function(context)
  for _, job in ipairs(context.queue) do
    if job.priority == "batch" then -- YAML line 17
      local workers = candidates(context, job)
      local worker = workers:most_vram_free()
      if worker then
        return { action = "dispatch", job_id = job.id, worker_id = worker.id, reason = "rule batch-jobs-low-priority" }
      end
    end
  end
end

-- Rule "fallback", priority 0 (YAML line 23)
rules[3] = function(context)
  return platform.schedule(context)
end

function schedule(context)
  refused = {}
  for _, rule in ipairs(rules) do
    local decision = rule(context)
    if decision then return decision end
  end
  return { action = "wait", reason = "no rule applies" }
end
