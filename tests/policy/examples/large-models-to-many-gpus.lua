-- Large models to several GPUs, everything else to the cheapest, translated from Rhai.
function schedule_job(job, pools, workers)
  -- Route large models to multi-GPU setups
  if string_contains(job.model, "70b") then
    return workers:filter(function(w) return w.gpus > 1 end):first()
  end

  -- Route to cheapest available
  return workers:min_by(function(w) return w.cost_per_token end)
end
