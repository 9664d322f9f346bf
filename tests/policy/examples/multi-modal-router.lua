-- Multi-modal router, translated from Rhai.
function schedule_job(job, pools, workers)
  if job.type == "image-gen" then
    return workers
      :filter(function(w) return w.capability == "image-gen" end)
      :least_loaded()
  elseif string_contains(job.model, "70b") then
    return workers:filter(function(w) return w.gpus > 1 end):first()
  else
    return workers:min_by(function(w) return w.cost_per_token end)
  end
end
