-- Latency: each job runs on the worker that is nearest to whoever asked.
-- Use it when: workers stand in several places and the way there takes longer than the wait for a slot.
--
-- Jobs and workers say where they are in `user.geo` and `geo` (degrees). A job or worker whose place is not known is
-- infinitely far away, so such workers come last; equally far ones go by load.

local CLASSES = { "interactive", "normal", "batch", "background" }

local function nearest(context, job)
  local best, best_km
  for _, worker in ipairs(context.find_candidates(job)) do
    local km = context.distance(job.user.geo, worker.geo)
    if not best or km < best_km or (km == best_km and worker.load < best.load) then
      best, best_km = worker, km
    end
  end
  return best
end

function schedule(context)
  for _, class in ipairs(CLASSES) do
    for _, model in ipairs(context.dispatchable_models(class)) do
      for _, job in ipairs(context.queue_heads(class, model)) do
        local worker = context.check_quota(job.tenant_id, job) and nearest(context, job)
        if worker then
          return { action = "dispatch", job_id = job.id, worker_id = worker.id, reason = "nearest worker" }
        end
      end
    end
  end
  return platform.schedule(context)
end
