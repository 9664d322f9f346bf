-- The platform policy: what schedules until an operator deploys a policy of their own, and what every other policy can
-- hand over to with `platform.schedule(context)`. Copy it and change it: it uses nothing that other policies may not.
--
-- It answers one question at a time, in this order, and returns the first answer that it finds:
--
--   1. dispatch      Which waiting job can start now, and where?
--   2. preempt       Must a job that is not urgent make way for an interactive one?
--   3. start_worker  Does a job wait for a model that no worker serves, and is there room for one?
--   4. evict         Would there be room if a worker left that nobody needs?
--   5. wait
--
-- The queen applies the answer and asks again, until it is `wait`.
--
-- Who comes first: the more urgent class; in it the earliest deadline; then the tenant that was served the fewest tokens
-- for its weight; then the job that came first. Batch and background jobs that waited long move up by one class, so
-- that everybody is served some day; nothing ever moves up into the interactive class, which is kept for people.
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

-- Whether a tenant's quotas leave room for one more job. A tenant without quotas, or one that the queen was never told
-- of, may run as much as there is. `wanted` is the job, or 0 to ask whether any job may start.
local function within_quota(h, tenant, wanted)
  local may, why = h.check_tenant_quota(tenant, wanted)
  return may or why == "tenant_unknown"
end

-- The same for any job of a tenant, asked once in a decision.
local function may_start(h, tenant, refused)
  local closed = refused.tenants[tenant]
  if closed == nil then
    closed = not within_quota(h, tenant, 0)
    refused.tenants[tenant] = closed
  end
  return not closed
end

-- Where a job should run now; nil if no worker can take it. What one job was refused, a job of the same model that asks
-- for no less and is as easily pleased is refused without another look: `refused` remembers it for this decision.
local function place(h, job, refused)
  local is_plain = job.engine == "" and job.quantizations == "" and job.min_compute_capability == ""
    and job.min_context_tokens == 0 and job.pin_pool_id == "" and job.avoid_pool_ids == ""
  if not is_plain then return h.find_best_worker(job) end
  local tokens, bytes = job.prompt_tokens + job.max_tokens, job.estimated_vram_bytes
  local least = refused.models[job.model_ref]
  if least and tokens >= least.tokens and bytes >= least.bytes then return nil end
  local worker = h.find_best_worker(job)
  if not worker then refused.models[job.model_ref] = { tokens = tokens, bytes = bytes } end
  return worker
end

local function by_deadline(a, b)
  if a.deadline_at ~= b.deadline_at then return a.deadline_at < b.deadline_at end
  return a.seq < b.seq
end

local function by_age(a, b) return a.seq < b.seq end

-- 1a. Of the jobs of a class with a deadline, the earliest that can start, and where. The models are asked in the order
-- of their earliest deadlines, and no more of them than could still have an earlier one.
local function earliest_deadline(h, class, models, refused)
  local firsts = {}
  for _, model in ipairs(models) do firsts[#firsts + 1] = h.earliest_deadline(class, model) end
  if #firsts == 0 then return nil end
  if #firsts > 1 then table.sort(firsts, by_deadline) end
  local function can_start(job)
    return may_start(h, job.tenant_id, refused) and within_quota(h, job.tenant_id, job)
      and place(h, job, refused) ~= nil
  end
  local best
  for _, first in ipairs(firsts) do
    if best and by_deadline(best, first) then break end
    local job = h.earliest_deadline(class, first.model_ref, can_start)
    if job and (not best or by_deadline(job, best)) then best = job end
  end
  return best, best and place(h, best, refused)
end

-- The oldest of some jobs that can start, and where.
local function oldest(h, jobs, refused)
  if #jobs > 1 then table.sort(jobs, by_age) end
  for _, job in ipairs(jobs) do
    local worker = within_quota(h, job.tenant_id, job) and place(h, job, refused)
    if worker then return job, worker end
  end
  return nil
end

-- The job of some tenants that starts next, and where. `contest` holds what competes: for each class, its models with an
-- open worker, and the instant before which a job must have been queued.
local function next_of(h, tenants, contest, refused)
  local first
  for _, tenant in ipairs(tenants) do
    for _, group in ipairs(contest) do
      local job = h.oldest_of_tenant(group.class, tenant, group.models)
      if job and (not first or job.seq < first.seq) then first = job end
    end
  end
  if not first then return nil end
  local has_waited = first.priority == contest.class or first.queued_at <= contest.promoted_before
  local worker = has_waited and within_quota(h, first.tenant_id, first) and place(h, first, refused)
  if worker then return first, worker end
  -- The oldest cannot start: so the oldest of every need, since a small job may fit where a large one does not.
  local heads = {}
  for _, tenant in ipairs(tenants) do
    for _, group in ipairs(contest) do
      for _, model in ipairs(group.models) do
        for _, job in ipairs(h.tenant_heads(group.class, model, tenant)) do
          if job.queued_at <= group.queued_before then heads[#heads + 1] = job end
        end
      end
    end
  end
  return oldest(h, heads, refused)
end

-- 1b. The first job that can start of the tenant whose turn it is, and where. Tenants with equal shares take turns by
-- who came first.
local function fair_share(h, contest, refused)
  local tenants, last_share, last_running = {}, nil, nil
  for tenant, share, running in h.tenants_in_turn(contest[1].class, contest[2] and contest[2].class) do
    if #tenants > 0 and (share ~= last_share or running ~= last_running) then
      local job, worker = next_of(h, tenants, contest, refused)
      if job then return job, worker end
      tenants = {}
    end
    last_share, last_running = share, running
    if may_start(h, tenant, refused) then tenants[#tenants + 1] = tenant end
  end
  return next_of(h, tenants, contest, refused)
end

-- What competes in a class: its own jobs, and those of the class below that waited long.
local function contest_of(h, class, promoted_before)
  local contest, below = { class = class, promoted_before = promoted_before }, BELOW[class]
  local models = h.dispatchable_models(class)
  if #models > 0 then contest[1] = { class = class, models = models, queued_before = math.huge } end
  local waiting = below and h.next_job(below)
  -- Nobody below has waited long enough if the oldest has not.
  if waiting and waiting.queued_at <= promoted_before then
    local models_below = h.dispatchable_models(below)
    if #models_below > 0 then
      contest[#contest + 1] = { class = below, models = models_below, queued_before = promoted_before }
    end
  end
  return contest, models
end

local function dispatch(h, promoted_before)
  local refused = { models = {}, tenants = {} }
  for _, class in ipairs(CLASSES) do
    local contest, models = contest_of(h, class, promoted_before)
    if #contest > 0 then
      local job, worker = earliest_deadline(h, class, models, refused)
      local reason = "earliest deadline"
      if not job then
        job, worker = fair_share(h, contest, refused)
        reason = job and job.priority ~= class and "waited long" or "fair share"
      end
      if job then return { action = "dispatch", job_id = job.id, worker_id = worker.id, reason = reason } end
    end
  end
  return nil
end

-- 2. Take a batch or background job back for an interactive one of the same model. One at a time for each model: the
-- slot of a job that was told to stop is about to be free.
local function preempt(h)
  local oldest_job, victim
  for _, model in ipairs(h.models_to_preempt("interactive")) do
    local job = h.next_job("interactive", model)
    if (not oldest_job or job.seq < oldest_job.seq) and within_quota(h, job.tenant_id, job) then
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
      local job, at = h.next_job(class, model), #jobs + 1
      if within_quota(h, job.tenant_id, job) then
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

-- 4. Give up the worker that was unused for longest, if a worker for a waiting job could then start in its place.
local function evict(h, jobs)
  for _, job in ipairs(jobs) do
    local worker = h.find_worker_to_make_room(job)
    if worker then
      return { action = "evict", evict_worker_id = worker.id, reason = "makes room for " .. job.model_ref }
    end
  end
  return nil
end

function schedule(context)
  local h = context.helpers
  local promote_after_ms = context.config.promote_after_ms
  if type(promote_after_ms) ~= "number" then promote_after_ms = PROMOTE_AFTER_MS end
  local decision = dispatch(h, context.now_ms - promote_after_ms) or preempt(h)
  if decision then return decision end
  local jobs = unserved_jobs(h)
  if #jobs > 0 then
    decision = start_worker(h, jobs) or evict(h, jobs)
    if decision then return decision end
  end
  local reason = #context.queue == 0 and "nothing waits" or "no worker can take a waiting job now"
  return { action = "wait", reason = reason, retry_after_ms = RETRY_AFTER_MS }
end
