-- Cost: each job runs on the cheapest worker that can take it.
-- Use it when: workers differ in price (`cost_per_token`) and a cheap answer is worth more than a quick one.
--
-- Interactive jobs are left to the platform policy: somebody waits for them. A worker without a price comes last.

local CLASSES = { "normal", "batch", "background" }

local function cheapest(context, job)
  return context.find_candidates(job):min_by(function(worker) return worker.cost_per_token or math.huge end)
end

function schedule(context)
  if #context.dispatchable_models("interactive") > 0 then
    local decision = platform.schedule(context)
    if decision.action == "dispatch" then return decision end
  end
  for _, class in ipairs(CLASSES) do
    for _, model in ipairs(context.dispatchable_models(class)) do
      for _, job in ipairs(context.queue_heads(class, model)) do
        local worker = context.check_quota(job.tenant_id, job) and cheapest(context, job)
        if worker then
          return { action = "dispatch", job_id = job.id, worker_id = worker.id, reason = "cheapest worker" }
        end
      end
    end
  end
  return platform.schedule(context)
end
