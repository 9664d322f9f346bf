-- Fair-share: tenants take turns by the tokens that they were served for their weight, whatever the class of their jobs.
-- Use it when: tenants mark everything as urgent, and fairness between them counts more than urgency.
--
-- Within a tenant, the more urgent class and then the older job goes first.

local CLASSES = { "interactive", "normal", "batch", "background" }

function schedule(context)
  local models = {}
  for _, class in ipairs(CLASSES) do models[class] = context.dispatchable_models(class) end
  for tenant in context.tenants_in_turn() do
    for _, class in ipairs(CLASSES) do
      for _, model in ipairs(models[class]) do
        for _, job in ipairs(context.tenant_heads(class, model, tenant)) do
          local worker = context.check_quota(tenant, job) and context.find_best_worker(job)
          if worker then
            return { action = "dispatch", job_id = job.id, worker_id = worker.id, reason = "the turn of " .. tenant }
          end
        end
      end
    end
  end
  return platform.schedule(context)
end
