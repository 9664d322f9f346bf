-- How long a job takes, by measured speed, by what past jobs took, or by its own estimate; and when it will start.

local M, V, H, K = ...

local ipairs, next = ipairs, next
local floor, sort = math.floor, table.sort
local text, optional_text, job_of, worker_of, number_or = K.text, K.optional_text, K.job_of, K.worker_of, K.number_or

-- Prompts are taken to be computed this much faster than answers, token for token, while nobody measured it.
local PREFILL_SPEEDUP = 20

local function cached_tokens(job, worker)
  local node = M.workers[worker.id]
  local held = node and node.prefixes and job.prompt_hash and node.prefixes[job.prompt_hash]
  return held and (held < job.prompt_tokens and held or job.prompt_tokens) or 0
end
K.cached_tokens = cached_tokens

local function history_of(model_ref)
  local devices, jobs, mean, p95, p50 = M.histories[model_ref], 0, 0, 0, 0
  if not devices then return nil end
  local names = {}
  for device in next, devices do names[#names + 1] = device end
  -- Sums of fractions depend on their order.
  sort(names)
  for _, device in ipairs(names) do
    local seen = devices[device].raw
    jobs, mean, p50 = jobs + seen.n, mean + seen.mean_ms * seen.n, p50 + seen.p50_ms * seen.n
    if seen.p95_ms > p95 then p95 = seen.p95_ms end
  end
  if jobs == 0 then return nil end
  -- The middle of several devices lies between theirs; the slowest tail is the tail.
  return mean / jobs, p95, p50 / jobs
end

-- Milliseconds on a worker of known speed; nil if nothing was measured.
local function duration_on(job, worker)
  local speed = number_or(worker.tokens_per_s, 0)
  if not (speed > 0) then return nil end
  local fresh = number_or(job.prompt_tokens, 0) - cached_tokens(job, worker)
  local tokens = number_or(job.expected_tokens, number_or(job.max_tokens, 0))
  local speedup = number_or(worker.prefill_speedup, 0)
  if not (speedup > 0) then speedup = PREFILL_SPEEDUP end
  return (fresh / speedup + tokens) * 1000 / speed
end
K.duration_on = duration_on

local function whole(ms) return ms and floor(ms + 0.5) end

function H.estimate_job_duration(job, worker)
  local found = job_of(job, 1, "estimate_job_duration")
  if not found then return nil end
  local on = worker ~= nil and worker_of(worker, 2, "estimate_job_duration") or nil
  local ms = on and duration_on(found, on)
  if ms then return whole(ms) end
  local estimate = number_or(found.estimated_duration_ms, 0)
  if estimate > 0 then return whole(estimate) end
  return whole(history_of(found.model_ref)) or 0
end

function H.prefix_overlap(worker, job)
  local on, found = worker_of(worker, 1, "prefix_overlap"), job_of(job, 2, "prefix_overlap")
  return on and found and cached_tokens(found, on) or 0
end

-- Milliseconds that jobs of this model took (mean and 95th percentile); without any, the estimate twice.
function H.predict_job_duration(job)
  local found = job_of(job, 1, "predict_job_duration")
  if not found then return nil end
  local mean, p95 = history_of(M.resolve(found.model_ref))
  if mean then return whole(mean), whole(p95) end
  local estimate = whole(number_or(found.estimated_duration_ms, 0))
  return estimate, estimate
end

function H.get_historical_metrics(model_ref, device)
  local model = M.resolve(text(model_ref, 1, "get_historical_metrics"))
  local devices = M.histories[model]
  if optional_text(device, 2, "get_historical_metrics") == nil then
    local mean, p95, p50 = history_of(model)
    if not mean then return nil end
    local jobs, now, coming = 0, nil, nil
    for _, node in next, devices do
      -- What is usual in an hour is the model's, and the same on every device.
      jobs, now, coming = jobs + node.raw.n, node.raw.urgent_slots, node.raw.urgent_slots_next
    end
    return {
      model_ref = model, mean_ms = mean, p50_ms = p50, p95_ms = p95, n = jobs,
      urgent_slots = now, urgent_slots_next = coming,
    }
  end
  local node = devices and devices[device]
  return node and V.history(node)
end

-- How many jobs of a model are served before one, counted once for each decision.
local ranks, ranks_version = {}, -1

local function ahead_of(node)
  if ranks_version ~= M.queue_version then ranks, ranks_version = {}, M.queue_version end
  local of = ranks[node.model]
  if not of then
    local n = 0
    of = {}
    for rank = 1, #M.CLASSES do
      local group = M.classes[rank].models[node.model]
      if group then
        for each in M.walk(group.line) do
          of[each.id] = n
          n = n + 1
        end
      end
    end
    ranks[node.model] = of
  end
  return of[node.id]
end

function H.predict_start_ms(job)
  local found = job_of(job, 1, "predict_start_ms")
  local node = found and M.jobs[found.id]
  local scope = node and M.scope_of(M.resolve(node.model))
  if not scope then return nil end
  local slots, free = 0, 0
  for _, worker in ipairs(scope.members) do
    local raw = worker.raw
    if raw.status == "ready" or raw.status == "busy" then
      slots, free = slots + raw.slots_total, free + (worker.open and raw.slots_free or 0)
    end
  end
  if slots == 0 then return nil end
  local ahead = ahead_of(node)
  if ahead < free then return 0 end
  local mean = history_of(node.model) or number_or(found.estimated_duration_ms, 0)
  return whole((ahead - free + 1) * mean / slots)
end
