-- Policy "batch-optimized": compiled from YAML by Beeyard. Change the YAML and compile it again.
-- Rules are tried in this order. A rule acts on the first queued job that meets its condition and for which
-- its action can be done; the first rule that acts makes the decision.

local rules = {}

-- Rule "batch-to-most-vram", priority 0 (YAML line 8)
rules[1] = function(context)
  for _, job in ipairs(context.queue) do
    if job.priority == "batch" then -- YAML line 10
      local workers = context.helpers.find_candidates(job)
      local worker = workers:most_vram_free()
      if worker then
        return { action = "dispatch", job_id = job.id, worker_id = worker.id, reason = "rule batch-to-most-vram" }
      end
    end
  end
end

function schedule(context)
  for _, rule in ipairs(rules) do
    local decision = rule(context)
    if decision then return decision end
  end
  return { action = "wait", reason = "no rule applies" }
end
