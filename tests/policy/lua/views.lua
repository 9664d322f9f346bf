-- What a policy sees looks like the plain tables of the specification, and cannot be changed.

local expect, refuses = ...
local cases = {}

local function keys(of)
  local found = {}
  for key in pairs(of) do found[#found + 1] = tostring(key) end
  return table.concat(found, " ")
end

local function write(to, key) to[key] = 1 end

function cases.lists_have_lengths_and_are_walked()
  expect(#context.queue, 3)
  expect(context.queue[4], nil)
  expect(context.queue[0], nil)
  expect(context.queue.x, nil)
  local walked, by_pairs = {}, {}
  for at, job in ipairs(context.queue) do walked[at] = job.id end
  for at, job in pairs(context.queue) do by_pairs[at] = job.id end
  expect(table.concat(walked, " "), "job-1 job-3 job-2")
  expect(table.concat(by_pairs, " "), "job-1 job-3 job-2")
  expect(#context.pools, 2)
  expect(#context.pools[1].workers, 2)
  expect(#context.pools[1].gpus, 2)
  expect(#context.tenants, 2)
  expect(context.queue[1], context.queue[1])
end

function cases.pairs_go_in_the_order_of_the_names()
  expect(keys(context), "catalog config helpers metrics now_ms pools queue state tenants workers")
  expect(keys(context.tenants[1]),
    "id jobs_running jobs_waiting quota_used quota_vram tokens_served weight")
  expect(keys(context.queue[1].user.geo), "lat lon")
  expect(keys(context.queue[1].labels), "team")
  expect(keys(context.queue[2].labels), "")
  expect(keys(context.catalog), "aliases models")
  expect(keys(context.catalog.models), "llama-13b llama-70b llama-7b")
  expect(keys(context.metrics), "busy_workers queue_depth total_workers")
  M.metric("a_figure", 3)
  expect(keys(context.metrics), "a_figure busy_workers queue_depth total_workers")
end

function cases.nothing_can_be_written()
  for _, of in ipairs({
    context, context.queue, context.queue[1], context.queue[1].labels, context.queue[1].user, context.pools,
    context.pools[1], context.pools[1].workers, context.pools[1].gpus, context.pools[1].gpus[1], context.workers,
    context.workers[1], context.workers[1].gpu_ids, context.tenants, context.tenants[1], context.catalog,
    context.catalog.models, context.metrics, context.config, context.helpers, platform,
  }) do
    refuses("context is read-only", write, of, "id")
    refuses("context is read-only", write, of, 1)
    expect(getmetatable(of), "read-only")
  end
  context.state.mine = 1
  expect(context.state.mine, 1)
end

function cases.what_depends_on_time_is_worked_out()
  expect(context.queue[1].wait_time_ms, 30000)
  expect(context.workers[1].uptime_s, 600)
  expect(context.pools[1].heartbeat_age_ms, 1000)
  M.begin(610000, 1)
  expect(context.queue[1].wait_time_ms, 40000)
  expect(context.now_ms, 610000)
  M.begin(0, 1)
  expect(context.queue[1].wait_time_ms, 0)
end

function cases.a_job_has_what_the_documents_say()
  local job = context.queue[2]
  expect(job.deadline_ms, 100000)
  expect(job.deadline_at, 660000)
  expect(job.model, "llama-7b")
  expect(job.user.geo, nil)
  expect(context.queue[1].deadline_ms, nil)
  expect(context.queue[1].seed, 42)
  expect(context.queue[1].user.geo.lat, 51.5)
  expect(context.queue[1].labels.team, "research")
end

function cases.a_worker_has_what_the_documents_say()
  local worker = context.workers[4]
  expect(worker.gpus, 2)
  expect(worker.gpu_id, "0")
  expect(#worker.gpu_ids, 2)
  expect(worker.geo, nil)
  expect(worker.model, "llama-70b")
  expect(context.workers[1].geo.lon, 4.9)
end

function cases.views_follow_the_world()
  local worker, workers = context.workers[1], context.workers
  M.worker_load("worker-1", "ready", 1, 5, 6, 0.75, 7)
  expect(worker.slots_free, 1)
  expect(worker.load, 0.75)
  M.worker_gone("worker-2")
  expect(#context.workers, 3)
  expect(#context.pools[1].workers, 1)
  expect(context.metrics.total_workers, 3)
  expect(context.metrics.busy_workers, 2)
  expect(#workers, 4)
end

function cases.the_queue_follows_at_the_next_decision()
  expect(context.queue[3].id, "job-2")
  M.job_gone("job-1")
  M.begin(600000, 1)
  expect(#context.queue, 2)
  expect(context.queue[1].id, "job-3")
  expect(context.metrics.queue_depth, 2)
end

function cases.a_job_that_comes_back_stands_where_it_stood()
  for number = 10, 40 do
    M.job("j" .. number, number, "t", "", "interactive", "m", "", 0, 1, 1, nil, 0, 0, 1, nil, 0, 0, 1, "", nil, nil, "")
  end
  M.job_gone("j12")
  M.job("j12", 12, "t", "", "interactive", "m", "", 0, 1, 1, nil, 0, 0, 2, nil, 0, 0, 1, "", nil, nil, "")
  M.begin(600000, 1)
  expect(context.queue[4].id, "j12")
  expect(context.queue[4].attempt, 2)
  expect(context.queue[32].id, "j40")
  expect(#context.queue, 34)
end

function cases.a_figure_of_the_queen_goes_before_the_mirrors()
  M.metric("queue_depth", 99)
  expect(context.metrics.queue_depth, 99)
  M.metric("queue_depth", nil)
  expect(context.metrics.queue_depth, 3)
end

function cases.deltas_of_unknown_things_change_nothing()
  local before = M.digest()
  M.worker_gone("nobody")
  M.worker_load("nobody", "ready", 1, 1, 1, 0, 0)
  M.job_gone("nobody")
  M.job_label("nobody", "a", "b")
  M.running_gone("nobody")
  M.prefix("nobody", "h", 3)
  M.gpu_gone("nowhere", 0)
  M.tenant_gone("nobody")
  M.pool_gone("nowhere")
  M.model_gone("nothing")
  expect(M.digest(), before)
  refuses("unknown delta drop", M.apply, "drop")
  refuses("unknown priority urgent", M.job, "x", 1, "t", "", "urgent", "m")
end

function cases.a_pool_that_is_gone_leaves_its_workers()
  M.pool_gone("pool-1")
  expect(#context.pools, 2)
  expect(#context.pools[1].gpus, 0)
  M.worker_gone("worker-1")
  M.worker_gone("worker-2")
  M.pool_gone("pool-1")
  expect(#context.pools, 1)
  expect(context.pools[1].id, "pool-2")
end

return cases
