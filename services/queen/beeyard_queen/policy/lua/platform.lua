-- The platform policy: what schedules until an operator deploys a policy of their own, and what every other policy can
-- hand over to with `platform.schedule(context)`. Copy it and change it: it uses nothing that other policies may not.
--
-- It answers one question at a time, in this order, and returns the first answer that it finds:
--
--   1. dispatch      Has a job waited for too long? Else, which waiting job can start now, and where?
--   2. preempt       Must a job that is not urgent make way for an interactive one?
--   3. start_worker  Does a job wait for a model that no worker serves, and is there room for one?
--   4. evict         Would there be room if a worker left that nobody needs?
--   5. wait
--
-- The queen applies the answer and asks again, until it is `wait`.
--
-- Who comes first: the more urgent class; in it the earliest deadline; then the tenant that was served the fewest tokens
-- for its weight; of its sessions the one whose turn it is; then the job that came first. Batch and background jobs that
-- waited long move up by one class, so that everybody is served some day; nothing ever moves up into the interactive
-- class, which is kept for people.
-- Where it runs: the worker on which it would end first, by measured speed and what of its prompt is in the worker's
-- cache; then the least loaded; then the one with the most memory free; then by id. That is `find_best_worker`.
--
-- It never walks the queue or the fleet: each question goes to an index, by class, model and tenant. Ten thousand
-- waiting jobs cost what ten cost.

local CLASSES = { "interactive", "normal", "batch", "background" }
-- The class whose long-waiting jobs compete in this one, too.
local BELOW = { normal = "batch", batch = "background" }
-- How long a batch or background job waits before it moves up; `config.promote_after_ms` goes before it.
local PROMOTE_AFTER_MS = 5 * 60 * 1000
-- When to ask again if nothing changes meanwhile: deadlines and waiting times go on.
local RETRY_AFTER_MS = 1000

-- Whether a tenant's quotas leave room for a job. A tenant without quotas, or one that the queen was never told of, may
-- run as much as there is.
local function within_quota(h, job)
  local may, why = h.check_tenant_quota(job.tenant_id, job)
  return may or why == "tenant_unknown"
end

-- Where a job can start now; nil if it cannot.
local function place(h, job) return within_quota(h, job) and h.find_best_worker(job) or nil end

-- No model is held; made once, since almost every decision needs it.
local NOTHING = {}

-- 1a. The oldest job of those that have waited for too long and can start; and their models, of which nothing else may
-- start before them: where small jobs always find room, a large one never would.
local function overdue(h)
  local jobs, held, found = h.overdue_jobs(), NOTHING, nil
  if not jobs[1] then return nil, held end
  held = {}
  for _, job in ipairs(jobs) do
    if within_quota(h, job) then
      held[job.model_ref] = true
      local worker = not found and h.find_best_worker(job)
      if worker then
        found = { action = "dispatch", job_id = job.id, worker_id = worker.id, reason = "overdue" }
      end
    end
  end
  return found, held
end

local function but_held(models, held)
  if held == NOTHING then return models end
  local kept = {}
  for _, model in ipairs(models) do
    if not held[model] then kept[#kept + 1] = model end
  end
  return kept
end

-- 1b. Of the jobs of a class with a deadline, the earliest that can start, and where.
local function earliest_deadline(h, class, held)
  local places = {}
  local job = h.earliest_deadline(class, nil, function(job)
    places[job.id] = not held[job.model_ref] and place(h, job) or nil
    return places[job.id] ~= nil
  end)
  return job, job and places[job.id]
end

-- 1c. The first job that can start of the tenant whose turn it is, and where. Tenants with equal shares take turns by
-- who came first.
local function fair_share(h, contest)
  for job in h.jobs_in_turn(contest) do
    local worker = place(h, job)
    if worker then return job, worker end
  end
  return nil
end

-- What competes in a class: its own jobs, and those of the class below that waited long.
local function contest_of(h, class, promoted_before, held)
  local contest, below = {}, BELOW[class]
  local models = but_held(h.dispatchable_models(class), held)
  if #models > 0 then contest[1] = { class = class, models = models } end
  if below then
    models = but_held(h.dispatchable_models(below), held)
    -- Nobody below has waited long enough if the oldest has not.
    if #models > 0 and h.next_job(below).queued_at <= promoted_before then
      contest[#contest + 1] = { class = below, models = models, queued_before = promoted_before }
    end
  end
  return contest
end

local function dispatch(h, promoted_before, held)
  for _, class in ipairs(CLASSES) do
    local contest = contest_of(h, class, promoted_before, held)
    if #contest > 0 then
      local job, worker = earliest_deadline(h, class, held)
      local reason = "earliest deadline"
      if not job then
        job, worker = fair_share(h, contest)
        reason = job and job.priority ~= class and "waited long" or "fair share"
      end
      if job then return { action = "dispatch", job_id = job.id, worker_id = worker.id, reason = reason } end
    end
  end
  return nil
end

-- 2. Take a batch or background job back for an interactive one of the same model. One at a time for each model: the
-- slot of a job that was told to stop is about to be free.
local function preempt(h, held)
  local oldest_job, victim
  for _, model in ipairs(but_held(h.models_to_preempt("interactive", "batch"), held)) do
    local job = h.next_to_start("interactive", model)
    if job and (not oldest_job or job.seq < oldest_job.seq) and within_quota(h, job) then
      local running = h.find_job_to_preempt(job)
      if running and (running.priority == "batch" or running.priority == "background") then
        oldest_job, victim = job, running
      end
    end
  end
  if not victim then return nil end
  return { action = "preempt", job_id = victim.id, for_job_id = oldest_job.id, reason = "interactive work waits" }
end

-- The oldest job for each model that nobody serves, the most urgent class first.
local function unserved_jobs(h)
  local jobs = {}
  for _, class in ipairs(CLASSES) do
    local first = #jobs + 1
    for _, model in ipairs(h.unserved_models(class)) do
      local job, at = h.next_to_start(class, model), #jobs + 1
      if job and within_quota(h, job) then
        while at > first and jobs[at - 1].seq > job.seq do at = at - 1 end
        table.insert(jobs, at, job)
      end
    end
  end
  return jobs
end

-- 3. Start a worker for a job before anybody asks for it, where the most memory is free.
local function start_worker(h, jobs)
  for _, job in ipairs(jobs) do
    local gpu = h.find_gpu_for_job(job)
    if gpu then
      return {
        action = "start_worker", reason = "no worker serves " .. job.model_ref,
        start_worker = { model_ref = job.model_ref, pool_id = gpu.pool_id, gpu_id = gpu.id },
      }
    end
  end
  return nil
end

-- 4. Give up the worker that was unused for longest (or used least, see `config.eviction`), if a worker for a waiting job
-- could then start in its place. One that was loaded just now keeps its place for `config.residence_ms`.
local function evict(h, jobs)
  for _, job in ipairs(jobs) do
    local worker = h.find_worker_to_make_room(job)
    if worker then
      return { action = "evict", evict_worker_id = worker.id, reason = "makes room for " .. job.model_ref }
    end
  end
  return nil
end

local function wait(reason) return { action = "wait", reason = reason, retry_after_ms = RETRY_AFTER_MS } end

function schedule(context)
  if #context.queue == 0 then return wait("nothing waits") end
  local h = context.helpers
  local promote_after_ms = context.config.promote_after_ms
  if type(promote_after_ms) ~= "number" then promote_after_ms = PROMOTE_AFTER_MS end
  local decision, held = overdue(h)
  decision = decision or dispatch(h, context.now_ms - promote_after_ms, held) or preempt(h, held)
  if decision then return decision end
  local jobs = unserved_jobs(h)
  if #jobs > 0 then
    decision = start_worker(h, jobs) or evict(h, jobs)
    if decision then return decision end
  end
  return wait("no worker can take a waiting job now")
end
