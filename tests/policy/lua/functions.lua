-- What each function of a policy does, case by case, in the documents' little world (tests/support/sample_world.py).
-- A case is a function in the table that this file returns; `expect(actual, expected)` and `refuses(text, f, ...)` judge.

local expect, refuses = ...
local GIB = 1 << 30
local NAN = 0 / 0
local cases = {}

local function id(record) return record and record.id or nil end

local function ids(list)
  local found = {}
  for at, each in ipairs(list) do found[at] = each.id end
  return table.concat(found, " ")
end

local function reason(fits, why) return tostring(fits) .. " " .. tostring(why) end

-- Call styles and arguments

function cases.the_three_ways_to_call_are_one()
  expect(id(context.helpers.find_worker("llama-7b")), "worker-2")
  expect(id(context.find_worker("llama-7b")), "worker-2")
  expect(id(context:find_worker("llama-7b")), "worker-2")
  expect(context:max(1, 2), 2)
  expect(id(context.find_worker_most_vram_free("llama-7b")), "worker-1")
end

function cases.a_wrong_argument_names_the_function()
  refuses("bad argument #1 to 'find_worker' (string expected, got table)", helpers.find_worker, {})
  refuses("bad argument #1 to 'find_worker' (string expected, got nil)", helpers.find_worker)
  refuses("bad argument #2 to 'find_worker' (string expected, got boolean)", helpers.find_worker, "m", true)
  refuses("bad argument #3 to 'find_least_loaded_worker'", helpers.find_least_loaded_worker, "m", "p", "much")
  refuses("bad argument #1 to 'get_job' (string expected, got number)", helpers.get_job, 7)
  refuses("bad argument #1 to 'filter_jobs' (function or table expected, got string)", helpers.filter_jobs, "x")
  refuses("bad argument #1 to 'can_job_fit' (job or its id expected, got nil)", helpers.can_job_fit)
  refuses("bad argument #2 to 'can_job_fit' (worker or its id expected, got number)", helpers.can_job_fit, "job-1", 3)
  refuses("bad argument #2 to 'average' (number expected, got string)", helpers.average, { 1, "2" })
  refuses("'queue_heads' (no class 'urgent')", helpers.queue_heads, "urgent", "m")
  refuses("bad argument #1 to 'min_by'", context.workers.min_by, context.workers, 7)
  refuses("a name of a-z, 0-9 and _ expected", helpers.emit_metric, "Bad name", 1)
  refuses("interval is empty", helpers.random, 2, 1)
  refuses("interval is empty", helpers.random, NAN)
end

function cases.amounts_that_are_none_match_nothing()
  for _, bytes in ipairs({ NAN, -NAN, math.huge, -math.huge, -1 }) do
    expect(helpers.find_worker("llama-7b", nil, bytes), nil)
    expect(helpers.find_most_vram_free_worker("llama-7b", bytes), nil)
    expect(#helpers.find_gpus_with_vram(bytes), 0)
    expect(#helpers.find_pools_with_capacity(bytes), 0)
    expect(#context.workers:with_capacity(bytes), 0)
    expect(reason(helpers.check_quota("tenant-1", bytes)), "false amount_invalid")
  end
end

-- Jobs

function cases.jobs_are_found_by_id_and_by_what_they_are()
  expect(helpers.get_job("nobody"), nil)
  expect(helpers.get_job("job-1"), context.queue[1])
  expect(ids(helpers.filter_jobs({ tenant_id = "tenant-2" })), "job-3 job-2")
  expect(ids(helpers.filter_jobs(function(job) return job.seed ~= nil end)), "job-1")
  expect(ids(helpers.filter_jobs({ tenant_id = "tenant-2", priority = "interactive" })), "")
end

function cases.a_job_or_its_id_will_do()
  expect(helpers.calculate_wait_time(context.queue[1]), helpers.calculate_wait_time("job-1"))
  expect(helpers.calculate_wait_time("nobody"), nil)
  expect(helpers.get_job_priority_score("nobody"), nil)
  expect(helpers.estimate_job_duration("nobody"), nil)
end

function cases.scores_order_classes_then_waiting()
  expect(helpers.get_job_priority_score("job-1"), 3030)
  expect(helpers.get_job_priority_score("job-3"), 2020)
  expect(helpers.get_job_priority_score("job-2"), 1360)
end

function cases.durations_come_from_speed_then_estimate_then_history()
  expect(helpers.estimate_job_duration("job-1", "worker-1"), 2100)
  expect(helpers.estimate_job_duration("job-1", "worker-2"), 2750)
  expect(helpers.estimate_job_duration("job-1"), 2500)
  expect(helpers.estimate_job_duration("job-2"), 9000)
  expect(select(2, helpers.predict_job_duration("job-1")), 4000)
  expect(select(2, helpers.predict_job_duration("job-2")), 9000)
end

function cases.a_start_is_predicted_from_the_jobs_ahead()
  expect(helpers.predict_start_ms("job-1"), 0)
  expect(helpers.predict_start_ms("job-2"), 9000)
  M.worker_gone("worker-3")
  expect(helpers.predict_start_ms("job-2"), nil)
end

function cases.the_first_thing_in_the_way_is_named()
  expect(reason(helpers.can_job_fit("job-1", "worker-1")), "true nil")
  expect(reason(helpers.can_job_fit("job-1", "worker-4")), "false model_mismatch")
  expect(reason(helpers.can_job_fit("job-2", "worker-3")), "false no_free_slot")
  expect(reason(helpers.can_job_fit("nobody", "worker-3")), "false job_unknown")
  expect(reason(helpers.can_job_fit("job-2", "nobody")), "false worker_unknown")
  local function fits(wishes)
    local job = { model_ref = "llama", prompt_tokens = 10, max_tokens = 10 }
    for name, value in pairs(wishes) do job[name] = value end
    return reason(helpers.can_job_fit(job, "worker-1"))
  end
  expect(fits({}), "true nil")
  expect(fits({ engine = "synthetic" }), "false engine_mismatch")
  expect(fits({ estimated_vram_bytes = 9 * GIB }), "false insufficient_vram")
  expect(fits({ estimated_vram_bytes = NAN }), "false insufficient_vram")
  expect(fits({ max_tokens = 9000 }), "false insufficient_kv")
  expect(fits({ quantizations = "f16,q8_0" }), "false quantization_mismatch")
  expect(fits({ pin_pool_id = "pool-2" }), "false pool_excluded")
  expect(fits({ avoid_pool_ids = "pool-2,pool-1" }), "false pool_excluded")
  expect(fits({ min_compute_capability = "8.9" }), "true nil")
  expect(fits({ min_compute_capability = "8.10" }), "false compute_capability_too_low")
  M.pool("pool-1", "offline", 0)
  expect(fits({}), "false pool_unhealthy")
end

function cases.the_queue_answers_by_its_indexes()
  expect(ids(helpers.queue_heads("interactive", "llama")), "job-1")
  expect(ids(helpers.queue_heads("interactive", "nothing")), "")
  expect(id(helpers.next_job("normal", "llama-7b", "tenant-2")), "job-3")
  expect(helpers.next_job("normal", "llama-7b", "tenant-1"), nil)
  expect(helpers.next_job("background"), nil)
  expect(#helpers.dispatchable_models("batch"), 0)
  expect(helpers.count_waiting("normal"), 1)
  expect(helpers.count_waiting("normal", "llama-13b"), 0)
end

-- Tenants without room in their quotas

local function walked(contest)
  local found = {}
  for job in helpers.jobs_in_turn(contest) do found[#found + 1] = job.id end
  return table.concat(found, ",")
end

function cases.who_has_used_up_a_quota_is_not_in_turn_until_a_job_ends()
  local normal = { { class = "normal", models = { "llama-7b" } } }
  expect(id(helpers.next_job("normal", "llama-7b")), "job-3")
  expect(helpers.next_to_start("normal", "llama-7b"), nil)
  expect(helpers.tenants_in_turn("normal")(), nil)
  expect(#helpers.dispatchable_models("normal"), 0)
  expect(helpers.earliest_deadline("normal"), nil)
  expect(walked(normal), "")
  M.tenant_load("tenant-2", 0, 0, 3000)
  expect(id(helpers.next_to_start("normal", "llama-7b")), "job-3")
  expect(helpers.tenants_in_turn("normal")(), "tenant-2")
  expect(helpers.dispatchable_models("normal")[1], "llama-7b")
  expect(id(helpers.earliest_deadline("normal")), "job-3")
  expect(id(helpers.earliest_deadline("normal", "llama-7b")), "job-3")
  expect(helpers.earliest_deadline("normal", nil, function() return false end), nil)
  expect(walked(normal), "job-3")
end

function cases.the_jobs_in_turn_are_those_of_whoever_was_served_least()
  local function put(name, seq, tenant, tokens, queued_at)
    M.job(name, seq, tenant, "", "normal", "llama-7b", "", tokens, 0, 1, nil, 0, queued_at, 1, nil, 0, 0, 1, "")
  end
  put("a-large", 10, "a", 2048, 10)
  put("a-small", 11, "a", 1, 11)
  put("a-second", 12, "a", 1, 11)
  put("b-small", 9, "b", 1, 9)
  M.tenant("b", nil, 0, nil, 0, 7000, nil, 1)
  local both = { { class = "normal", models = { "llama-7b" } }, { class = "interactive", models = { "llama-7b" } } }
  expect(walked(both), "a-large,a-small,job-1,b-small")
  expect(walked({ { class = "normal", models = { "llama-7b" }, queued_before = 10 } }), "a-large,b-small")
  refuses("list of { class, models } expected", function() helpers.jobs_in_turn("normal") end)
  refuses("no class 'urgent'", function() helpers.jobs_in_turn({ { class = "urgent", models = {} } }) end)
end

-- Workers

function cases.only_workers_with_a_free_slot_are_found()
  expect(helpers.find_worker("llama-13b"), nil)
  expect(helpers.find_worker("nothing"), nil)
  expect(ids(helpers.find_workers_by_model("llama-13b")), "worker-3")
  expect(id(helpers.find_worker("llama-7b", "pool-2")), nil)
  expect(id(helpers.find_worker("llama-7b", 5 * GIB)), "worker-1")
  expect(id(helpers.find_worker("llama-7b", "pool-1", 5 * GIB)), "worker-1")
  expect(helpers.find_worker("llama-7b", 9 * GIB), nil)
end

function cases.ties_fall_to_the_smaller_id()
  M.worker_load("worker-1", "ready", 4, 4 * GIB, 100, 0.0, 500000, 20)
  expect(id(helpers.find_worker("llama-7b")), "worker-1")
  expect(id(helpers.find_most_vram_free_worker("llama-7b")), "worker-1")
  expect(id(helpers.find_worker_round_robin("llama-7b")), "worker-1")
  expect(id(context.workers:min_by(function() return 0 end)), "worker-1")
  expect(id(context.workers:max_by(function() return 0 end)), "worker-1")
end

function cases.round_robin_takes_turns_within_a_decision()
  expect(id(helpers.find_worker_round_robin("llama-7b")), "worker-2")
  expect(id(helpers.find_worker_round_robin("llama-7b")), "worker-1")
  expect(id(helpers.find_worker_round_robin("llama-7b")), "worker-2")
  expect(helpers.find_worker_round_robin("llama-13b"), nil)
  local list = helpers.filter_workers({ model_ref = "llama-7b" })
  expect(id(list:round_robin()), "worker-2")
  expect(id(list:round_robin()), "worker-1")
  M.begin(600000, 1)
  expect(id(helpers.find_worker_round_robin("llama-7b")), "worker-2")
end

function cases.the_best_worker_is_where_a_job_ends_first()
  expect(id(helpers.find_best_worker("job-1")), "worker-1")
  expect(id(helpers.find_best_worker(context.pools, "llama-7b")), "worker-1")
  expect(id(helpers.find_best_worker("llama")), "worker-1")
  expect(helpers.find_best_worker("job-2"), nil)
  -- A cache that spares enough makes up for speed.
  M.job("long", 9, "t", "", "normal", "llama-7b", "h", 7000, 10, 10, nil, 0, 0, 1, nil, 0, 0, 1, "", nil, nil, "")
  expect(id(helpers.find_best_worker("long")), "worker-1")
  M.prefix("worker-2", "h", 6900)
  expect(id(helpers.find_best_worker("long")), "worker-2")
  expect(helpers.prefix_overlap("worker-2", "long"), 6900)
  expect(helpers.prefix_overlap("worker-1", "long"), 0)
end

function cases.candidates_can_take_the_job()
  expect(ids(helpers.find_candidates("job-1")), "worker-1 worker-2")
  expect(ids(helpers.find_candidates("job-2")), "")
  expect(ids(helpers.find_candidates("nobody")), "")
end

-- Lists

function cases.lists_are_asked_further()
  local workers = context.workers
  expect(ids(workers), "worker-1 worker-2 worker-3 worker-4")
  expect(ids(workers:filter({ pool_id = "pool-2" })), "worker-3 worker-4")
  expect(ids(workers:filter(function(w) return w.gpus > 1 end):with_model("llama-70b")), "worker-4")
  expect(ids(workers:with_model("nothing")), "")
  expect(workers:with_model("nothing"):least_loaded(), nil)
  expect(id(workers:with_model("llama-13b"):least_loaded()), nil)
  expect(id(context.pools[1].workers:least_loaded()), "worker-2")
  expect(id(workers:filter({ model_ref = "llama-7b" }):least_loaded()), "worker-2")
  expect(id(workers:filter({ model_ref = "llama-7b" }):most_vram_free()), "worker-1")
  expect(ids(workers:idle()), "worker-2 worker-4")
  expect(ids(workers:ready():in_pool("pool-2")), "worker-4")
  expect(ids(workers:with_capacity(6 * GIB)), "worker-1 worker-4")
  expect(ids(workers:prefix_overlap("job-1")), "worker-1")
  expect(ids(workers:prefix_overlap("job-2")), "")
  expect(id(workers:filter(function() return false end):first()), nil)
end

function cases.a_worker_without_a_key_is_passed_over()
  local near = context.workers:min_by(function(w) return w.geo and w.geo.lon end)
  expect(id(near), "worker-2")
  expect(context.workers:min_by(function() return NAN end), nil)
  expect(context.workers:min_by("capability"), nil)
  expect(id(context.workers:min_by(function(w) return helpers.distance(context.queue[1].user.geo, w.geo) end)), "worker-1")
end

function cases.own_lists_can_be_sorted()
  local list = helpers.filter_workers(function() return true end)
  table.sort(list, function(a, b) return a.id > b.id end)
  expect(list:first().id, "worker-4")
end

-- Pools and GPUs

function cases.pools_tell_of_their_health_and_room()
  expect(helpers.get_pool("nowhere"), nil)
  expect(helpers.is_pool_healthy("nowhere"), false)
  expect(helpers.is_pool_healthy(context.pools[1]), true)
  M.begin(604001, 1)
  expect(helpers.is_pool_healthy("pool-1"), false)
  expect(helpers.is_pool_healthy("pool-2"), true)
  M.config("pool_stale_ms", 10000)
  expect(helpers.is_pool_healthy("pool-1"), true)
  M.pool("pool-1", "degraded", 604001)
  expect(helpers.is_pool_healthy("pool-1"), false)
  expect(ids(helpers.find_pools_with_capacity(1)), "pool-2")
  expect(helpers.get_pool_utilization("pool-2"), 74 / 80)
  expect(helpers.get_pool_utilization("nowhere"), nil)
end

function cases.a_pool_without_gpus_is_measured_by_its_slots()
  M.pool("pool-3", "healthy", 600000)
  M.worker("cpu", "pool-3", "ready", "m", "e", 4, 1, 3 * GIB, nil, 0.75)
  expect(helpers.get_pool_utilization("pool-3"), 0.75)
  expect(ids(helpers.find_pools_with_capacity(3 * GIB)), "pool-1 pool-2 pool-3")
  M.worker_gone("cpu")
  expect(helpers.get_pool_utilization("pool-3"), 0)
end

function cases.gpus_are_named_in_three_ways()
  expect(helpers.gpu_vram_free("pool-1", 0), 8 * GIB)
  expect(helpers.gpu_vram_free("pool-1", "0"), 8 * GIB)
  expect(helpers.gpu_vram_free(helpers.get_gpu("pool-1", 0)), 8 * GIB)
  expect(helpers.gpu_vram_free(1), 16 * GIB)
  expect(helpers.gpu_vram_free("nothing"), nil)
  expect(helpers.get_gpu("nowhere", 0), nil)
  local order = {}
  for at, gpu in ipairs(helpers.find_gpus_with_vram(0)) do order[at] = gpu.pool_id .. "/" .. gpu.id end
  expect(table.concat(order, " "), "pool-1/1 pool-1/0 pool-2/0")
end

function cases.a_model_fits_a_gpu_or_not()
  local gpu = helpers.get_gpu("pool-1", 0)
  expect(reason(helpers.check_gpu_compatibility(gpu, "llama")), "true nil")
  expect(reason(helpers.check_gpu_compatibility(gpu, "llama-70b")), "false insufficient_vram")
  expect(reason(helpers.check_gpu_compatibility(gpu, "nothing")), "false model_unknown")
  expect(reason(helpers.check_gpu_compatibility("nothing", "llama")), "false gpu_unknown")
  expect(helpers.estimate_performance("llama-7b", "nothing"), 45)
  expect(helpers.estimate_performance("nothing", gpu), 0)
end

-- Models and tenants

function cases.models_are_known_by_catalog_or_by_workers()
  M.worker("w", "pool-1", "ready", "served-only", "e", 1, 1, 0)
  expect(helpers.model_exists("served-only"), true)
  expect(helpers.resolve_model("served-only"), "served-only")
  expect(helpers.resolve_model("nothing"), nil)
  expect(helpers.get_model("served-only"), nil)
  expect(helpers.get_model_vram("llama-70b"), 48 * GIB)
  expect(helpers.get_model_vram("nothing"), nil)
  expect(ids(helpers.find_models_by_family("llama")), "llama-13b llama-70b llama-7b")
  expect(ids(helpers.filter_models({ vram_required = 12 * GIB })), "llama-13b")
end

function cases.quotas_are_kept_to_the_byte()
  expect(reason(helpers.check_tenant_quota("tenant-1", 16 * GIB)), "true nil")
  expect(reason(helpers.check_tenant_quota("tenant-1", 16 * GIB + 1)), "false vram_quota_exceeded")
  expect(reason(helpers.check_tenant_quota("tenant-1", "job-1")), "true nil")
  expect(reason(helpers.check_tenant_quota(context.tenants[2], context.queue[1])), "false job_quota_exceeded")
  expect(reason(helpers.check_tenant_quota("nobody", 0)), "false tenant_unknown")
  expect(helpers.tenant_over_quota("tenant-1"), false)
  expect(helpers.tenant_over_quota("nobody"), true)
  expect(helpers.tenant_remaining_quota("tenant-2"), math.huge)
  expect(helpers.tenant_remaining_quota("nobody"), 0)
  expect(helpers.estimate_quota_impact("nobody", "job-1"), nil)
  expect(helpers.get_tenant_usage("tenant-2").jobs_waiting, 2)
  expect(helpers.get_tenant_usage("nobody"), nil)
end

function cases.shares_are_weighted()
  expect(helpers.fair_share_deficit("tenant-2"), 1000)
  M.tenant("tenant-1", nil, 0, nil, 0, 5000, nil, 3)
  expect(helpers.fair_share_deficit("tenant-1"), 1000)
  expect(helpers.fair_share_deficit("nobody"), 0)
end

-- Eviction and preemption

function cases.only_idle_workers_may_be_evicted()
  expect(id(helpers.find_worker_to_evict_lru("pool-1")), "worker-2")
  expect(id(helpers.find_worker_to_evict_lfu("pool-2")), "worker-4")
  expect(helpers.find_worker_to_evict_lru("nowhere"), nil)
  expect(ids(helpers.idle_workers()), "worker-4 worker-2")
  expect(ids(helpers.idle_workers("pool-1")), "worker-2")
  M.worker_load("worker-2", "ready", 3, 0, 0, 0.25, 0)
  expect(helpers.find_worker_to_evict_lru("pool-1"), nil)
end

function cases.a_full_pool_should_evict()
  expect(select(2, helpers.should_evict("pool-2")), 74 * GIB - math.floor(80 * GIB * 0.9))
  expect(reason(helpers.should_evict("pool-1")), "false 0")
  M.config("evict_above", 0.4)
  expect(reason(helpers.should_evict("pool-1")), "true " .. 24 * GIB - math.floor(48 * GIB * 0.4))
  expect(reason(helpers.should_evict("nowhere")), "false 0")
end

function cases.a_model_that_somebody_waits_for_stays()
  expect(helpers.find_model_to_evict("pool-1"), nil)
  expect(helpers.find_model_to_evict("pool-2"), "llama-70b")
  M.job("big", 9, "t", "", "background", "llama-70b", "", 0, 1, 1, nil, 0, 0, 1, nil, 0, 0, 1, "", nil, nil, "")
  expect(helpers.find_model_to_evict("pool-2"), nil)
end

function cases.only_lower_classes_make_way()
  expect(id(helpers.find_job_to_preempt("job-1")), "job-9")
  M.running("job-9", "worker-1", "tenant-2", "interactive", 300, 590000, false)
  expect(helpers.find_job_to_preempt("job-1"), nil)
  M.running("job-9", "worker-1", "tenant-2", "batch", 300, 590000, true)
  expect(helpers.find_job_to_preempt("job-1"), nil)
  expect(helpers.count_stopping("llama-7b"), 1)
  expect(helpers.find_job_to_preempt("nobody"), nil)
end

-- Small things

function cases.logs_are_bounded_and_without_addresses()
  for number = 1, 60 do helpers.log_info("line " .. number) end
  expect(#M.logs, 50)
  M.begin(600000, 1)
  helpers.log_warn(("x"):rep(300))
  helpers.log_error({})
  helpers.log_debug(nil)
  expect(#M.logs[1].message, 256)
  expect(M.logs[1].level .. M.logs[2].message .. M.logs[3].message, "warntablenil")
end

function cases.metrics_are_bounded_and_finite()
  expect(helpers.emit_metric("a", NAN), false)
  expect(helpers.emit_metric("a", math.huge), false)
  for _ = 1, 50 do expect(helpers.emit_metric("a", 1), true) end
  expect(helpers.emit_metric("a", 1), false)
  expect(#M.emitted, 50)
end

function cases.time_stands_still()
  expect(helpers.now(), context.now_ms)
  expect(helpers.elapsed_since(700000), 0)
end

function cases.lists_of_numbers_may_be_empty()
  expect(helpers.average({}), nil)
  expect(helpers.max({}), nil)
  expect(helpers.min(), nil)
  expect(helpers.average(1, 2), 1.5)
  expect(helpers.max({ -1, -2 }), -1)
end

function cases.texts_are_taken_as_they_stand()
  expect(helpers.string_contains("a.b", "."), true)
  expect(helpers.string_contains("ab", "."), false)
  expect(helpers.string_starts_with("ab", ""), true)
  expect(helpers.string_starts_with("a", "ab"), false)
end

function cases.an_unknown_place_is_infinitely_far_away()
  expect(helpers.distance(nil, context.workers[1].geo), math.huge)
  expect(helpers.distance(context.workers[1].geo, nil), math.huge)
  expect(helpers.distance(1, 2, 3), math.huge)
  expect(helpers.distance(NAN, 0, 0, 0), math.huge)
  expect(helpers.distance(0, 0, 0, 180), 20015.114)
  expect(helpers.distance({ lat = 10, lon = 20 }, { lat = 10, lon = 20 }), 0)
end

function cases.chance_is_the_decisions()
  M.begin(600000, 5)
  local first = { helpers.random(), helpers.random(6), helpers.random(-3, 3) }
  M.begin(600000, 5)
  expect(helpers.random(), first[1])
  expect(helpers.random(6), first[2])
  expect(helpers.random(-3, 3), first[3])
  for _ = 1, 200 do
    local value = helpers.random(3)
    expect(value >= 1 and value <= 3 and math.type(value) == "integer", true)
  end
  M.begin(600000, 6)
  expect(helpers.random() ~= first[1], true)
end

function cases.history_is_told_by_device_and_together()
  M.history("llama-7b", "other", 500, 900, 8, 450)
  expect(helpers.get_historical_metrics("llama").mean_ms, 1500)
  expect(helpers.get_historical_metrics("llama").n, 16)
  expect(helpers.get_historical_metrics("llama-7b", "other").p50_ms, 450)
  expect(helpers.get_historical_metrics("llama-7b", "other").p95_ms, 900)
  expect(helpers.get_historical_metrics("llama-7b", "none"), nil)
  M.history("llama-7b", "other", 500, 900, 8, 450, 1.5, 3)
  expect(helpers.get_historical_metrics("llama-7b", "other").urgent_slots_next, 3)
  expect(helpers.get_historical_metrics("nothing"), nil)
end

function cases.the_platform_policy_is_asked_like_any_function()
  refuses("the platform policy is not loaded here", platform.schedule)
  M.platform = { schedule = function(given) return { action = "wait", same = given == context } end, source = "text" }
  expect(platform.schedule(context).same, true)
  expect(context:platform_schedule().action, "wait")
  expect(platform.get_source(), "text")
end

return cases
