-- Jobs by themselves: found, filtered, counted and scored.

local M, V, H, K = ...

local floor = math.floor
local text, job_of, predicate, number_or = K.text, K.job_of, K.predicate, K.number_or

function H.get_job(id)
  local node = M.jobs[text(id, 1, "get_job")]
  return node and V.job(node)
end

function H.filter_jobs(wanted)
  local fits, found = predicate(wanted, 1, "filter_jobs"), {}
  for rank = 1, #M.CLASSES do
    for node in M.walk(M.classes[rank].line) do
      local job = V.job(node)
      if fits(job) then found[#found + 1] = job end
    end
  end
  return found
end

function H.calculate_wait_time(job)
  local found = job_of(job, 1, "calculate_wait_time")
  return found and found.wait_time_ms
end

-- A class is worth a thousand points, a second of waiting one, up to 999: order within a class, never across.
function H.get_job_priority_score(job)
  local found = job_of(job, 1, "get_job_priority_score")
  if not found then return nil end
  local waited = number_or(found.wait_time_ms, 0) // 1000
  return (#M.CLASSES - (M.RANK[found.priority] or #M.CLASSES)) * 1000 + (waited < 999 and floor(waited) or 999)
end
