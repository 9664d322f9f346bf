-- Running jobs: what could be taken back for somebody more urgent. Below each model, the least urgent and, among those,
-- the youngest first, since it loses the least work.

local M = ...

local error, next, tostring = error, next, tostring
local heaps, RANK, workers = M.heaps, M.RANK, M.workers

local runs, runs_by_worker = {}, {}
-- `victims`: model -> heap of those not yet told to stop. `stopping`: how many of a model were told and have not yet.
-- `losable`: models with victims of which none is stopping.
local victims, stopping, losable = {}, {}, {}
M.runs, M.stopping, M.losable = runs, stopping, losable

local function sooner_preempted(a, b)
  if a.rank ~= b.rank then return a.rank > b.rank end
  if a.started ~= b.started then return a.started > b.started end
  return a.id < b.id
end

local function recount(model)
  local heap = victims[model]
  losable[model] = heap and heap.n > 0 and not stopping[model] or nil
  local scope = M.model_scopes[model]
  if scope then scope.version = scope.version + 1 end
end

local function unfile_run(run)
  local model = run.model
  if not model then return end
  if run.raw.is_stopping then
    local left = stopping[model] - 1
    stopping[model] = left > 0 and left or nil
  elseif not run.raw.is_kept then
    heaps.remove(victims[model], run)
  end
  recount(model)
  run.model = false
end

-- A job that keeps its slot, or that its worker was told to stop, is nobody's victim; nor is one whose worker is not
-- known (yet).
local function file_run(run)
  local worker = workers[run.raw.worker_id]
  if not worker then return end
  local model = worker.model
  run.model = model
  if run.raw.is_stopping then
    stopping[model] = (stopping[model] or 0) + 1
  elseif not run.raw.is_kept then
    local heap = victims[model]
    if not heap then
      heap = heaps.new(sooner_preempted)
      victims[model] = heap
    end
    heaps.add(heap, run)
  end
  recount(model)
end

function M.running_gone(job_id)
  local run = runs[job_id]
  if not run then return end
  unfile_run(run)
  runs[job_id] = nil
  local worker_id = run.raw.worker_id
  local of_worker = runs_by_worker[worker_id]
  of_worker[job_id] = nil
  if not workers[worker_id] and not next(of_worker) then runs_by_worker[worker_id] = nil end
  M.queue_version = M.queue_version + 1
end

-- A job that holds a slot of a worker.
function M.running(job_id, worker_id, tenant_id, priority, kv_tokens, started_at, is_stopping, is_kept)
  if runs[job_id] then M.running_gone(job_id) end
  local run = {
    id = job_id, rank = RANK[priority] or error("job " .. tostring(job_id) .. ": unknown priority", 2),
    started = started_at or 0, model = false,
    raw = {
      id = job_id, job_id = job_id, worker_id = worker_id, tenant_id = tenant_id, priority = priority,
      kv_tokens = kv_tokens or 0, started_at = started_at or 0, is_stopping = is_stopping == true,
      is_kept = is_kept == true,
    },
  }
  runs[job_id] = run
  local of_worker = runs_by_worker[worker_id]
  if not of_worker then
    of_worker = {}
    runs_by_worker[worker_id] = of_worker
  end
  of_worker[job_id] = run
  file_run(run)
  M.queue_version = M.queue_version + 1
end

-- Call after a worker came or went.
function M.refile_runs(worker_id)
  local of_worker = runs_by_worker[worker_id]
  if not of_worker then return end
  for _, run in next, of_worker do
    unfile_run(run)
    file_run(run)
  end
  if not workers[worker_id] and not next(of_worker) then runs_by_worker[worker_id] = nil end
end

-- The running job of a model that is preempted first, of those of a class after `rank` that `fits(run, a)` holds for;
-- nil if there is none.
function M.victim(model, rank, fits, a)
  local heap = victims[model]
  if not heap or heap.n == 0 or heap[1].rank <= rank then return nil end
  if not fits then return heap[1] end
  local found = heaps.search(heap, fits, a)
  return found and found.rank > rank and found or nil
end
