-- Multi-modal router: images, large models and text each go to workers of their kind.
-- Use it when: one queue feeds workers of several capabilities (`capability` of a worker, `type` of a job).
--
-- Written as `schedule_job`: it is called for each waiting job in order and returns a worker, or nil to let it wait.

local function can_take(job)
  return function(worker) return worker.model_ref == job.model_ref and worker.slots_free > 0 end
end

function schedule_job(job, pools, workers)
  if job.type == "image-gen" then
    return workers
      :filter(function(worker) return worker.capability == "image-gen" and worker.slots_free > 0 end)
      :least_loaded()
  elseif job.model_ref:find("70b", 1, true) then
    return workers:filter(can_take(job)):filter(function(worker) return worker.gpus > 1 end):first()
  end
  return workers:filter(can_take(job)):min_by(function(worker) return worker.cost_per_token or math.huge end)
end
