-- Latency optimizer, translated from Rhai: workers.min_by(|w| distance(job.user.geo, w.geo))
function schedule_job(job, pools, workers)
  return workers:min_by(function(w) return distance(job.user.geo, w.geo) end)
end
