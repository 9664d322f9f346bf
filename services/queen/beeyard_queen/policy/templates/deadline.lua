-- Deadline: the job with the least slack goes first: the time to its deadline, less the time that it will take.
-- Use it when: jobs carry deadlines that matter more than their class. What cannot be met any more is rejected at once,
-- so that its client can do something about it.

local CLASSES = { "interactive", "normal", "batch", "background" }

function schedule(context)
  local best, best_slack, best_worker
  for _, class in ipairs(CLASSES) do
    for _, model in ipairs(context.dispatchable_models(class)) do
      -- The earliest deadline of a model is enough: jobs of one model take alike.
      local job = context.earliest_deadline(class, model)
      local worker = job and context.check_quota(job.tenant_id, job) and context.find_best_worker(job)
      if worker then
        local slack = job.deadline_at - context.now_ms - context.estimate_job_duration(job, worker)
        if slack < 0 then
          return { action = "reject", job_id = job.id, reason = "its deadline cannot be met" }
        end
        if not best or slack < best_slack then best, best_slack, best_worker = job, slack, worker end
      end
    end
  end
  if not best then return platform.schedule(context) end
  return { action = "dispatch", job_id = best.id, worker_id = best_worker.id, reason = "least slack" }
end
