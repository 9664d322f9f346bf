-- FIFO: a baseline to compare policies with. The oldest job that can start anywhere starts, on the first open worker by
-- id: no classes, no tenants, no deadlines, no preemption.
-- Use it when: you want to know what a policy is worth.

local CLASSES = { "interactive", "normal", "batch", "background" }

local function by_age(a, b) return a.seq < b.seq end

local function start(context, job)
  local worker = context.find_candidates(job)[1]
  return worker and { action = "dispatch", job_id = job.id, worker_id = worker.id, reason = "oldest" }
end

-- The oldest job of every class and model with an open worker; if none of these can start, the oldest of every need,
-- since a small job may fit where a large one does not.
local function waiting(context, all_needs)
  local jobs = {}
  for _, class in ipairs(CLASSES) do
    for _, model in ipairs(context.dispatchable_models(class)) do
      if all_needs then
        for _, job in ipairs(context.queue_heads(class, model)) do jobs[#jobs + 1] = job end
      else
        jobs[#jobs + 1] = context.next_job(class, model)
      end
    end
  end
  table.sort(jobs, by_age)
  return jobs
end

-- Models that nobody serves are started where the most memory is free, in the place of what is unused if need be.
local function serve(context)
  local jobs = {}
  for _, class in ipairs(CLASSES) do
    for _, model in ipairs(context.unserved_models(class)) do jobs[#jobs + 1] = context.next_job(class, model) end
  end
  table.sort(jobs, by_age)
  for _, job in ipairs(jobs) do
    local gpu = context.find_gpu_for_job(job)
    if gpu then
      return {
        action = "start_worker", reason = "no worker serves " .. job.model_ref,
        start_worker = { model_ref = job.model_ref, pool_id = gpu.pool_id, gpu_id = gpu.id },
      }
    end
    local worker = context.find_worker_to_make_room(job)
    if worker then return { action = "evict", evict_worker_id = worker.id, reason = "makes room" } end
  end
  return nil
end

function schedule(context)
  for _, all_needs in ipairs({ false, true }) do
    for _, job in ipairs(waiting(context, all_needs)) do
      local decision = start(context, job)
      if decision then return decision end
    end
  end
  return serve(context) or { action = "wait", reason = "nothing can start", retry_after_ms = 1000 }
end
