-- Cost optimizer, translated from Rhai: workers.min_by(|w| w.cost_per_token)
function schedule_job(job, pools, workers)
  return workers:min_by(function(w) return w.cost_per_token end)
end
