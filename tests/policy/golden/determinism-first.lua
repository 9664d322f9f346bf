-- Policy "determinism-first", version 1.0: compiled from YAML by Beeyard. Change the YAML and compile it again.
-- Rules are tried in this order. A rule acts on the first queued job that meets its condition and for which
-- its action can be done; the first rule that acts makes the decision.

local rules = {}

-- Rule "prioritize-seeded-jobs", priority 100 (YAML line 6)
rules[1] = function(context)
  for _, job in ipairs(context.queue) do
    if job.seed ~= nil then -- YAML line 8
      local workers = context.helpers.find_candidates(job)
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
      local workers = context.helpers.find_candidates(job)
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
  for _, rule in ipairs(rules) do
    local decision = rule(context)
    if decision then return decision end
  end
  return { action = "wait", reason = "no rule applies" }
end
