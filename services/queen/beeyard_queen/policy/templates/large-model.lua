-- Large-model: jobs for models that need several GPUs go before others to workers that have them, and small models
-- are kept off such workers' hosts while large ones wait.
-- Use it when: a few hosts with many GPUs serve the large models, and small work must not occupy them.

local LARGE_BYTES = 40 * 1024 * 1024 * 1024
local CLASSES = { "interactive", "normal", "batch", "background" }

local function is_large(context, model) return (context.get_model_vram(model) or 0) >= LARGE_BYTES end

local function dispatch_large(context)
  for _, class in ipairs(CLASSES) do
    for _, model in ipairs(context.dispatchable_models(class)) do
      for _, job in ipairs(is_large(context, model) and context.queue_heads(class, model) or {}) do
        local worker = context.check_quota(job.tenant_id, job)
          and context.find_candidates(job):max_by(function(each) return each.gpus end)
        if worker then
          return { action = "dispatch", job_id = job.id, worker_id = worker.id, reason = "most GPUs" }
        end
      end
    end
  end
  return nil
end

-- Room for a large model that nobody serves goes before everything small.
local function start_large(context)
  for _, class in ipairs(CLASSES) do
    for _, model in ipairs(context.unserved_models(class)) do
      local job = context.next_job(class, model)
      local gpu = is_large(context, model) and context.find_gpu_for_job(job)
      if gpu then
        local place = { model_ref = model, pool_id = gpu.pool_id, gpu_id = gpu.id }
        return { action = "start_worker", start_worker = place, reason = "a large model waits" }
      end
    end
  end
  return nil
end

function schedule(context)
  return dispatch_large(context) or start_large(context) or platform.schedule(context)
end
