---@meta
-- What a policy sees, for editors that read LuaCATS annotations; nothing loads this file. The page
-- docs/policies/helpers.md is drawn from it, and a test holds both against the functions themselves: that each is
-- here, that it takes these arguments, and that every example gives what it says.
--
-- Units: bytes, milliseconds, tokens, tokens a second; instants are milliseconds of the clock of `context.now_ms`.

---@class Geo
---@field lat number Degrees north.
---@field lon number Degrees east.

---@alias Priority "interactive" | "normal" | "batch" | "background"

---A job that waits.
---@class Job
---@field id string
---@field tenant_id string
---@field session_id string Empty: none.
---@field priority Priority Its class.
---@field model_ref string The model; `model` is another name of the field.
---@field prompt_hash string Equal for equal prompts; empty: unknown.
---@field prompt_tokens integer Length of the prompt, estimated.
---@field max_tokens integer Most tokens to generate.
---@field expected_tokens integer Tokens that it will likely generate.
---@field seed? integer nil: the client gave none.
---@field created_at integer When the client's request was accepted.
---@field queued_at integer When it began to wait; later than `created_at` after a failed attempt.
---@field wait_time_ms integer How long it has waited.
---@field attempt integer 1 at first.
---@field deadline_ms? integer From acceptance to the end, as the client asked; nil: as long as it takes.
---@field deadline_at? integer The same as an instant.
---@field estimated_vram_bytes integer Memory that it needs on its worker's device; 0: unknown.
---@field estimated_duration_ms integer How long it will likely run; 0: unknown.
---@field cost_units integer 1 to 100.
---@field session_turn integer Its place among its tenant's jobs of its class and model: sessions take turns.
---@field is_next boolean It has waited for too long: nothing else of its model should start before it.
---@field labels table<string, string> The client's labels.
---@field type string Such as `text` or `image-gen`.
---@field user { geo?: Geo } Where the client is, if it said so.
---@field engine string Only workers of this engine; empty: any.
---@field min_context_tokens integer Least context window; 0: any.
---@field min_vram_bytes integer Least memory of the device, free or not; 0: any.
---@field min_compute_capability string Such as `8.6`; empty: any device.
---@field quantizations string Accepted quantizations, separated by commas; empty: any.
---@field extensions string What its worker must be able to do beyond generating, separated by commas; empty: nothing.
---@field pin_pool_id string Only this pool; empty: any.

---A worker process with one model.
---@class Worker
---@field id string
---@field pool_id string
---@field gpu_id? string|integer The first of `gpu_ids`.
---@field gpu_ids (string|integer)[]
---@field gpus integer How many GPUs it spans.
---@field status "starting" | "ready" | "busy" | "away" | "draining" | "leaving" | "failed"
---@field model_ref string `model` is another name of the field.
---@field engine string
---@field slots_total integer Jobs that it runs at once.
---@field slots_free integer
---@field vram_free integer Free memory of its device in bytes.
---@field kv_free_tokens? integer Free KV memory in tokens; nil: unknown.
---@field context_tokens integer Longest prompt plus answer; 0: unknown.
---@field load number Share of its slots that are taken, 0 to 1.
---@field tokens_per_s number Measured decode speed of one slot, its own or that of its kind, on a grid; 0: nothing measured yet.
---@field prefill_speedup number How many prompt tokens it computes in the time of one token of an answer; 0: not measured.
---@field cost_per_token? number
---@field geo? Geo
---@field capability string Such as `text` or `image-gen`.
---@field quantization string
---@field extensions string What it can do beyond generating, separated by commas.
---@field uptime_s number
---@field last_used_at integer When it last held a job.
---@field jobs_served integer
---@field resident_at integer Since when its model is loaded, as `last_used_at`; 0: it loads, or nobody knows.
---@field served_class string The most urgent class that it served since then; empty: it served nobody yet.

---@class GPU
---@field id string|integer
---@field pool_id string
---@field name string
---@field vram_total integer Bytes.
---@field vram_allocated integer Bytes.
---@field vram_free integer Bytes.
---@field utilization? number 0 to 1.
---@field temperature_c? number
---@field power_w? number
---@field compute_capability string Such as `8.9`; empty for a CPU.

---@class Pool
---@field id string
---@field status string
---@field last_report_ms integer When its last report came.
---@field heartbeat_age_ms integer How long ago that was.
---@field workers WorkerList
---@field gpus GPU[]

---@class Tenant
---@field id string
---@field quota_vram? integer Bytes; nil: not limited.
---@field quota_used integer Bytes.
---@field quota_jobs? integer Jobs at once; nil: not limited.
---@field jobs_running integer
---@field jobs_waiting integer
---@field tokens_served integer
---@field tokens_per_minute? integer nil: not limited.
---@field weight number Its share of the fleet, relative to other tenants.

---@class Model
---@field ref string
---@field id string The same.
---@field family string
---@field vram_required integer Bytes; 0: unknown.
---@field size_bytes integer
---@field context integer Tokens; 0: unknown.
---@field quantization string
---@field pool_ids string The hosts that can load it, separated by commas; empty: any.

---A job that holds a slot.
---@class RunningJob
---@field id string
---@field worker_id string
---@field tenant_id string
---@field priority Priority
---@field kv_tokens integer
---@field started_at integer
---@field is_stopping boolean It was taken back already.
---@field is_kept boolean It is not taken back: it was too often, or it waited for too long.

---@class Context
---@field queue Job[] Interactive jobs first, oldest first within a class.
---@field pools Pool[]
---@field workers WorkerList
---@field tenants Tenant[]
---@field catalog { models: table<string, Model>, aliases: table<string, string> }
---@field metrics table<string, number> At least `queue_depth`, `total_workers`, `busy_workers`.
---@field config table<string, string|number|boolean>
---@field now_ms integer The instant of the decision; it stands still during one.
---@field helpers Helpers
---@field state table The policy's own, kept between decisions; at most 64 KiB.

---@class Helpers
local Helpers = {}

---@class WorkerList
local WorkerList = {}

-- ## Jobs

---The waiting job of an id.
---@param id string
---@return Job? # nil: no such job waits
---Example: `helpers.get_job("job-1").priority` → `"interactive"`
function Helpers.get_job(id) end

---The waiting jobs that fit, in the order of the queue. Walks the whole queue.
---@param wanted table|fun(job: Job): boolean Fields that must be equal, or a function.
---@return Job[]
---Example: `#helpers.filter_jobs({ model_ref = "llama-7b" })` → `2`
function Helpers.filter_jobs(wanted) end

---How long a job has waited.
---@param job Job|string The job or its id.
---@return integer? # milliseconds; nil: no such job waits
---Example: `helpers.calculate_wait_time("job-1")` → `30000`
function Helpers.calculate_wait_time(job) end

---How long a job will run: from the worker's measured speed and what it holds of the prompt in its cache, if a worker is
---given; else as estimated for the job; else the mean of its model's past jobs.
---@param job Job|string
---@param worker? Worker|string
---@return integer? # milliseconds; nil: no such job waits
---Example: `helpers.estimate_job_duration("job-1", "worker-1")` → `2100`
function Helpers.estimate_job_duration(job, worker) end

---Whether a worker can take a job now.
---@param job Job|string
---@param worker Worker|string
---@return boolean fits
---@return string? reason The first thing in the way: `model_mismatch`, `engine_mismatch`, `worker_not_ready`, `no_free_slot`, `pool_unhealthy`, `insufficient_vram`, `insufficient_kv`, `context_too_small`, `device_too_small`, `quantization_mismatch`, `pool_excluded`, `extension_missing`, `compute_capability_too_low`, `job_unknown` or `worker_unknown`.
---Example: `select(2, helpers.can_job_fit("job-2", "worker-1"))` → `"model_mismatch"`
function Helpers.can_job_fit(job, worker) end

---A number that is larger for what should go first: 1,000 for each class above background, and a point for each second
---of waiting, at most 999.
---@param job Job|string
---@return number?
---Example: `helpers.get_job_priority_score("job-1")` → `3030`
function Helpers.get_job_priority_score(job) end

---When a job will start, if nothing overtakes it: from the jobs of its model before it, their mean duration and the slots.
---@param job Job|string
---@return integer? # milliseconds from now; nil: no worker of its model is up
---Example: `helpers.predict_start_ms("job-1")` → `0`
function Helpers.predict_start_ms(job) end

---The jobs that have waited for too long: the oldest of each model that has one, oldest first. The platform policy starts
---nothing else of their models before them.
---@return Job[]
---Example: `#helpers.overdue_jobs()` → `0`
function Helpers.overdue_jobs() end

---Of each tenant and need the job that waits for a model in a class and whose session's turn it is, oldest first. Jobs
---with like needs stand and
---fall together, so this is all that a decision has to look at.
---@param priority Priority
---@param model_ref string
---@return Job[]
---Example: `helpers.queue_heads("normal", "llama-7b")[1].id` → `"job-3"`
function Helpers.queue_heads(priority, model_ref) end

---The oldest job of a class; of a model and a tenant in it, if given.
---@param priority Priority
---@param model_ref? string
---@param tenant_id? string
---@return Job?
---Example: `helpers.next_job("batch").id` → `"job-2"`
function Helpers.next_job(priority, model_ref, tenant_id) end

---The oldest job for a model in a class of the tenants whose quotas leave room for one more.
---@param priority Priority
---@param model_ref string
---@return Job?
---Example: `helpers.next_to_start("interactive", "llama-7b").id` → `"job-1"`
function Helpers.next_to_start(priority, model_ref) end

---The models for which a worker has a free slot and a job of a class waits whose tenant's quotas leave room for one more,
---in the order of their names.
---@param priority Priority
---@return string[]
---Example: `helpers.dispatchable_models("interactive")[1]` → `"llama-7b"`
function Helpers.dispatchable_models(priority) end

---The tenants whose jobs wait for a model in a class, in the order of their ids.
---@param priority Priority
---@param model_ref string
---@return string[]
---Example: `helpers.waiting_tenants("batch", "llama-13b")[1]` → `"tenant-2"`
function Helpers.waiting_tenants(priority, model_ref) end

---The models for which jobs of a class wait and no worker is up or loading, in the order of their names.
---@param priority Priority
---@return string[]
---Example: `#helpers.unserved_models("interactive")` → `0`
function Helpers.unserved_models(priority) end

---Walk the tenants that have waiting jobs, of one or two classes if given, and whose quotas leave room for one more.
---Whose turn it is comes first: who was served the fewest tokens for its weight, then who runs the fewest jobs for its
---weight. Each step gives the tenant's id and those two numbers.
---@param priority? Priority
---@param or_priority? Priority
---@return fun(): string?, number?, number?
---Example: `helpers.tenants_in_turn("interactive")()` → `"tenant-1"`
function Helpers.tenants_in_turn(priority, or_priority) end

---Walk the jobs that could start next, in the order of fair share: the tenants in turn, those with equal shares
---together; of them the job of each need whose session's turn it is. What competes is a list of classes with models, each
---perhaps with the instant before which a job must have been queued.
---@param contest { class: Priority, models: string[], queued_before?: integer }[]
---@return fun(): Job?
---Example: `helpers.jobs_in_turn({ { class = "interactive", models = { "llama-7b" } } })().id` → `"job-1"`
function Helpers.jobs_in_turn(contest) end

---The oldest job of a tenant in a class, of those that wait for one of some models.
---@param priority Priority
---@param tenant_id string
---@param models string[]
---@return Job?
---Example: `helpers.oldest_of_tenant("batch", "tenant-2", { "llama-7b", "llama-13b" }).id` → `"job-2"`
function Helpers.oldest_of_tenant(priority, tenant_id, models) end

---Of each need of one tenant the job that waits for a model in a class and whose session's turn it is, oldest first.
---@param priority Priority
---@param model_ref string
---@param tenant_id string
---@return Job[]
---Example: `helpers.tenant_heads("normal", "llama-7b", "tenant-2")[1].id` → `"job-3"`
function Helpers.tenant_heads(priority, model_ref, tenant_id) end

---Of the jobs of a model and class that have a deadline, the one with the earliest; for which the function holds, if one
---is given. Without a model, of all those that `dispatchable_models` names. Asked are the earliest of each need of each
---tenant whose quotas leave room for one more: in the example, those of the only tenant with a deadline do not.
---@param priority Priority
---@param model_ref? string
---@param accept? fun(job: Job): boolean
---@return Job?
---Example: `helpers.earliest_deadline("normal", "llama-7b", function(job) return true end)` → `nil`
function Helpers.earliest_deadline(priority, model_ref, accept) end

---How many jobs of a class wait; for a model, if given.
---@param priority Priority
---@param model_ref? string
---@return integer
---Example: `helpers.count_waiting("batch")` → `1`
function Helpers.count_waiting(priority, model_ref) end

-- ## Workers

---All workers, in the order of their ids.
---@return WorkerList
---Example: `#helpers.get_all_workers()` → `4`
function Helpers.get_all_workers() end

---The worker of a model with a free slot that has the least load; then the most VRAM free, then the smaller id.
---@param model_ref string The model or an alias.
---@param pool_id? string|integer Only this pool's workers; a number here means `bytes`.
---@param bytes? integer Least VRAM free, in bytes.
---@return Worker? # nil: there is none
---Example: `helpers.find_worker("llama-7b").id` → `"worker-2"`
function Helpers.find_worker(model_ref, pool_id, bytes) end

---The same as `find_worker`.
---@param model_ref string
---@param pool_id? string|integer
---@param bytes? integer
---@return Worker?
---Example: `helpers.find_least_loaded_worker("llama", "pool-1").id` → `"worker-2"`
function Helpers.find_least_loaded_worker(model_ref, pool_id, bytes) end

---The worker of a model with a free slot that has the most VRAM free; then the least load, then the smaller id.
---@param model_ref string
---@param pool_id? string|integer
---@param bytes? integer
---@return Worker?
---Example: `helpers.find_most_vram_free_worker("llama-7b").id` → `"worker-1"`
function Helpers.find_most_vram_free_worker(model_ref, pool_id, bytes) end

---The same as `find_most_vram_free_worker`.
---@param model_ref string
---@param pool_id? string|integer
---@param bytes? integer
---@return Worker?
---Example: `helpers.find_worker_most_vram_free("llama-7b").id` → `"worker-1"`
function Helpers.find_worker_most_vram_free(model_ref, pool_id, bytes) end

---The first worker of a model, by id, with a free slot.
---@param model_ref string
---@param pool_id? string|integer
---@param bytes? integer
---@return Worker?
---Example: `helpers.find_ready_worker("llama-7b").id` → `"worker-1"`
function Helpers.find_ready_worker(model_ref, pool_id, bytes) end

---The worker of a model with a free slot that costs the least for a token; then as `find_worker`.
---@param model_ref string
---@param pool_id? string|integer
---@param bytes? integer
---@return Worker?
---Example: `helpers.find_cheapest_worker("llama-7b").id` → `"worker-2"`
function Helpers.find_cheapest_worker(model_ref, pool_id, bytes) end

---The worker of a model with a free slot that decodes the fastest; then as `find_worker`.
---@param model_ref string
---@param pool_id? string|integer
---@param bytes? integer
---@return Worker?
---Example: `helpers.find_fastest_worker("llama-7b").id` → `"worker-1"`
function Helpers.find_fastest_worker(model_ref, pool_id, bytes) end

---All workers of a model, busy or not, in the order of their ids.
---@param model_ref string
---@return WorkerList
---Example: `#helpers.find_workers_by_model("llama-7b")` → `2`
function Helpers.find_workers_by_model(model_ref) end

---The worker of a model with a free slot that was unused for the longest time; further calls in one decision take the
---next ones in turn.
---@param model_ref string
---@param pool_id? string
---@return Worker?
---Example: `helpers.find_worker_round_robin("llama-7b").id` → `"worker-2"`
function Helpers.find_worker_round_robin(model_ref, pool_id) end

---The worker on which a job ends first, from measured speed and what is in the cache of its prompt; of a model, the
---fastest. Also called as `find_best_worker(pools, model_ref)`.
---@param wanted Job|string The job, its id, or a model.
---@param model_ref? string If `wanted` is the list of pools.
---@return Worker? # nil: none can take it now
---Example: `helpers.find_best_worker("job-1").id` → `"worker-1"`
function Helpers.find_best_worker(wanted, model_ref) end

---All workers that fit, in the order of their ids.
---@param wanted table|fun(worker: Worker): boolean Fields that must be equal, or a function.
---@return WorkerList
---Example: `#helpers.filter_workers({ pool_id = "pool-1" })` → `2`
function Helpers.filter_workers(wanted) end

---The workers that can take a job now, in the order of their ids.
---@param job Job|string
---@return WorkerList
---Example: `#helpers.find_candidates("job-1")` → `2`
function Helpers.find_candidates(job) end

---How much of a job's prompt a worker holds in its cache.
---@param worker Worker|string
---@param job Job|string
---@return integer # tokens
---Example: `helpers.prefix_overlap("worker-1", "job-1")` → `100`
function Helpers.prefix_overlap(worker, job) end

-- ## Lists of workers
--
-- `context.workers`, `pool.workers` and every list of workers that a function returns can be asked further.

---Those that fit.
---@param wanted table|fun(worker: Worker): boolean
---@return WorkerList
---Example: `context.workers:filter(function(w) return w.gpus > 1 end):first().id` → `"worker-4"`
function WorkerList:filter(wanted) end

---Those of a model.
---@param model_ref string
---@return WorkerList
---Example: `#context.workers:with_model("llama-7b")` → `2`
function WorkerList:with_model(model_ref) end

---Those of a pool.
---@param pool_id string
---@return WorkerList
---Example: `#context.workers:in_pool("pool-2")` → `2`
function WorkerList:in_pool(pool_id) end

---Those that hold no job and could take one.
---@return WorkerList
---Example: `#context.workers:idle()` → `2`
function WorkerList:idle() end

---Those that have a free slot.
---@return WorkerList
---Example: `#context.workers:ready()` → `3`
function WorkerList:ready() end

---Those with so much VRAM free.
---@param bytes integer
---@return WorkerList
---Example: `context.workers:with_capacity(6 << 30):first().id` → `"worker-1"`
function WorkerList:with_capacity(bytes) end

---Of those with a free slot, the one with the least load; then the most VRAM free, then the smaller id.
---@return Worker?
---Example: `context.workers:with_model("llama-7b"):least_loaded().id` → `"worker-2"`
function WorkerList:least_loaded() end

---Of those with a free slot, the one with the most VRAM free; then the least load, then the smaller id.
---@return Worker?
---Example: `context.workers:with_model("llama-7b"):most_vram_free().id` → `"worker-1"`
function WorkerList:most_vram_free() end

---Of those with a free slot, the one unused for the longest time; the next one at the next call of the decision.
---@return Worker?
---Example: `context.workers:with_model("llama-7b"):round_robin().id` → `"worker-2"`
function WorkerList:round_robin() end

---The one with the least key, busy or not; at equal keys the smaller id. One whose key is no number is passed over.
---@param key string|fun(worker: Worker): number? A field's name or a function.
---@return Worker?
---Example: `context.workers:min_by("cost_per_token").id` → `"worker-2"`
function WorkerList:min_by(key) end

---The one with the greatest key, as `min_by`.
---@param key string|fun(worker: Worker): number?
---@return Worker?
---Example: `context.workers:max_by(function(w) return w.tokens_per_s end).id` → `"worker-1"`
function WorkerList:max_by(key) end

---The first of the list.
---@return Worker?
---Example: `context.workers:first().id` → `"worker-1"`
function WorkerList:first() end

---Those that hold part of a job's prompt in their cache, those with the most of it first.
---@param job Job|string
---@return WorkerList
---Example: `context.workers:prefix_overlap("job-1"):first().id` → `"worker-1"`
function WorkerList:prefix_overlap(job) end

-- ## Pools

---The pool of an id.
---@param id string
---@return Pool?
---Example: `helpers.get_pool("pool-1").status` → `"healthy"`
function Helpers.get_pool(id) end

---The pools that fit, in the order of their ids.
---@param wanted table|fun(pool: Pool): boolean
---@return Pool[]
---Example: `helpers.filter_pools(function(pool) return #pool.gpus == 2 end)[1].id` → `"pool-1"`
function Helpers.filter_pools(wanted) end

---The healthy pools where one GPU has so much VRAM free (or one worker, in a pool without GPUs), in the order of their
---ids.
---@param bytes integer
---@return Pool[]
---Example: `helpers.find_pools_with_capacity(10 << 30)[1].id` → `"pool-1"`
function Helpers.find_pools_with_capacity(bytes) end

---Whether a pool is up and its last report no older than five seconds (`config.pool_stale_ms`).
---@param id string|Pool
---@return boolean
---Example: `helpers.is_pool_healthy("pool-1")` → `true`
function Helpers.is_pool_healthy(id) end

---The part of a pool's VRAM that is allocated; of its slots, if it has no GPUs.
---@param id string|Pool
---@return number? # 0 to 1; nil: no such pool
---Example: `helpers.get_pool_utilization("pool-1")` → `0.5`
function Helpers.get_pool_utilization(id) end

-- ## GPUs

---The GPUs with so much VRAM free, the freest first.
---@param bytes integer
---@return GPU[]
---Example: `helpers.find_gpus_with_vram(8 << 30)[1].vram_free >> 30` → `16`
function Helpers.find_gpus_with_vram(bytes) end

---The GPU of an id in a pool.
---@param pool_id string
---@param gpu_id string|integer
---@return GPU?
---Example: `helpers.get_gpu("pool-1", 0).name` → `"NVIDIA GeForce RTX 4090"`
function Helpers.get_gpu(pool_id, gpu_id) end

---All memory of a GPU in bytes. The GPU is a record, an id (the first pool that has it) or a pool's id and its own.
---@param gpu GPU|string|integer
---@param id? string|integer The GPU's id, if `gpu` is the pool's.
---@return integer?
---Example: `helpers.gpu_vram_total("pool-1", 0) >> 30` → `24`
function Helpers.gpu_vram_total(gpu, id) end

---Free memory of a GPU in bytes.
---@param gpu GPU|string|integer
---@param id? string|integer
---@return integer?
---Example: `helpers.gpu_vram_free("pool-1", 1) >> 30` → `16`
function Helpers.gpu_vram_free(gpu, id) end

---Allocated memory of a GPU in bytes.
---@param gpu GPU|string|integer
---@param id? string|integer
---@return integer?
---Example: `helpers.gpu_vram_allocated("pool-1", 1) >> 30` → `8`
function Helpers.gpu_vram_allocated(gpu, id) end

---A GPU's name.
---@param gpu GPU|string|integer
---@param id? string|integer
---@return string?
---Example: `helpers.gpu_device_name("pool-2", "0")` → `"NVIDIA A100-SXM4-80GB"`
function Helpers.gpu_device_name(gpu, id) end

---Whether a model could be loaded on a GPU, were it empty.
---@param gpu GPU|string|integer
---@param model_ref string
---@return boolean fits
---@return string? reason `insufficient_vram`, `gpu_unknown` or `model_unknown`.
---Example: `helpers.check_gpu_compatibility(helpers.get_gpu("pool-1", 0), "llama-70b")` → `false`
function Helpers.check_gpu_compatibility(gpu, model_ref) end

---Decode speed of one slot: the mean of what the model's workers measured on GPUs of this name, else on any.
---@param model_ref string
---@param gpu GPU|string|integer
---@return number # tokens a second; 0: nobody measured
---Example: `helpers.estimate_performance("llama-7b", helpers.get_gpu("pool-1", 0))` → `45`
function Helpers.estimate_performance(model_ref, gpu) end

-- ## Models

---A model's own name for a name or alias.
---@param name string
---@return string? # nil: nobody knows it
---Example: `helpers.resolve_model("llama")` → `"llama-7b"`
function Helpers.resolve_model(name) end

---A model of the catalog by name or alias.
---@param name string
---@return Model?
---Example: `helpers.get_model("llama").family` → `"llama"`
function Helpers.get_model(name) end

---Whether the catalog or any worker has a model.
---@param name string
---@return boolean
---Example: `helpers.model_exists("gpt-5")` → `false`
function Helpers.model_exists(name) end

---The models of the catalog that fit, in the order of their names.
---@param wanted table|fun(model: Model): boolean
---@return Model[]
---Example: `#helpers.filter_models(function(m) return m.vram_required > 10 << 30 end)` → `2`
function Helpers.filter_models(wanted) end

---The models of a family, in the order of their names.
---@param family string
---@return Model[]
---Example: `helpers.find_models_by_family("llama")[1].ref` → `"llama-13b"`
function Helpers.find_models_by_family(family) end

---Memory that a worker of a model needs, in bytes.
---@param name string
---@return integer? # nil: not in the catalog
---Example: `helpers.get_model_vram("llama-7b") >> 30` → `6`
function Helpers.get_model_vram(name) end

-- ## Tenants

---Whether a tenant's quotas leave room for a job, or for so much VRAM.
---@param tenant Tenant|string
---@param wanted? Job|string|integer A job, its id, or bytes; nil: nothing more.
---@return boolean fits
---@return string? reason `vram_quota_exceeded`, `job_quota_exceeded`, `tenant_unknown` or `amount_invalid`.
---Example: `helpers.check_tenant_quota("tenant-1", 20 << 30)` → `false`
function Helpers.check_tenant_quota(tenant, wanted) end

---The same as `check_tenant_quota`.
---@param tenant Tenant|string
---@param wanted? Job|string|integer
---@return boolean fits
---@return string? reason
---Example: `helpers.check_quota("tenant-1", 10 << 30)` → `true`
function Helpers.check_quota(tenant, wanted) end

---What a tenant uses: `vram` in bytes, `jobs_running`, `jobs_waiting`, `tokens_served`, `tokens_per_minute`.
---@param tenant Tenant|string
---@return table? # nil: no such tenant
---Example: `helpers.get_tenant_usage("tenant-1").vram >> 30` → `32`
function Helpers.get_tenant_usage(tenant) end

---Whether a tenant uses all that it may, so that nothing more should start. An unknown tenant may nothing.
---@param tenant Tenant|string
---@return boolean
---Example: `helpers.tenant_over_quota("tenant-2")` → `true`
function Helpers.tenant_over_quota(tenant) end

---VRAM that a tenant's quota leaves, in bytes; infinite without a quota.
---@param tenant Tenant|string
---@return number
---Example: `helpers.tenant_remaining_quota("tenant-1") >> 30` → `16`
function Helpers.tenant_remaining_quota(tenant) end

---VRAM that a tenant would use with a job running, in bytes.
---@param tenant Tenant|string
---@param job Job|string
---@return integer?
---Example: `helpers.estimate_quota_impact("tenant-1", "job-1") >> 30` → `34`
function Helpers.estimate_quota_impact(tenant, job) end

---Tokens that a tenant is behind its weighted share of all that was served; negative: ahead of it.
---@param tenant Tenant|string
---@return number
---Example: `helpers.fair_share_deficit("tenant-1")` → `-1000`
function Helpers.fair_share_deficit(tenant) end

-- ## Eviction and preemption
--
-- Only workers that hold no job are named.

---The idle worker that was unused for the longest time.
---@param pool_id? string|Pool Only this pool's.
---@return Worker?
---Example: `helpers.find_worker_to_evict_lru().id` → `"worker-4"`
function Helpers.find_worker_to_evict_lru(pool_id) end

---The idle worker that served the fewest jobs.
---@param pool_id? string|Pool
---@return Worker?
---Example: `helpers.find_worker_to_evict_lfu().id` → `"worker-2"`
function Helpers.find_worker_to_evict_lfu(pool_id) end

---Whether more than 90 % of a pool's VRAM is allocated (`config.evict_above`).
---@param pool Pool|string
---@return boolean full
---@return integer exceeded Bytes above that.
---Example: `helpers.should_evict("pool-2")` → `true`
function Helpers.should_evict(pool) end

---The model of a pool that was unused for the longest time: no job waits for it and all its workers there are idle.
---@param pool Pool|string
---@return string?
---Example: `helpers.find_model_to_evict("pool-2")` → `"llama-70b"`
function Helpers.find_model_to_evict(pool) end

---The models for which jobs of a class wait while less urgent ones run and none is stopping, in the order of their names.
---The running ones are of the class `victims` or a less urgent one, if that is given.
---@param priority Priority
---@param victims? Priority
---@return string[]
---Example: `helpers.models_to_preempt("interactive", "batch")[1]` → `"llama-7b"`
function Helpers.models_to_preempt(priority, victims) end

---The longest unused idle worker that nobody waits for and without which a worker for a job could be started.
---@param job Job|string
---@return Worker?
---Example: `helpers.find_worker_to_make_room("job-2").id` → `"worker-4"`
function Helpers.find_worker_to_make_room(job) end

---The GPU with the most memory free on which a worker for a job could be started.
---@param job Job|string
---@return GPU?
---Example: `helpers.find_gpu_for_job("job-2").id` → `"1"`
function Helpers.find_gpu_for_job(job) end

---How many running jobs of a model were told to stop and have not yet: their slots are about to be free.
---@param model_ref string
---@return integer
---Example: `helpers.count_stopping("llama-7b")` → `0`
function Helpers.count_stopping(model_ref) end

---The idle workers, those unused for the longest time first.
---@param pool_id? string
---@return WorkerList
---Example: `helpers.idle_workers():first().id` → `"worker-4"`
function Helpers.idle_workers(pool_id) end

---The running job that should make way for a waiting one of its model: of a lower class, the youngest of the lowest.
---@param job Job|string
---@return RunningJob?
---Example: `helpers.find_job_to_preempt("job-1").id` → `"job-9"`
function Helpers.find_job_to_preempt(job) end

-- ## Small things

---Log a line, at most 50 of 256 bytes a decision.
---@param message any
---Example: `helpers.log_info("looked at " .. #context.queue .. " jobs")` → `nil`
function Helpers.log_info(message) end

---Log a line at level warn.
---@param message any
---Example: `helpers.log_warn("tenant-2 is over its quota")` → `nil`
function Helpers.log_warn(message) end

---Log a line at level error.
---@param message any
---Example: `helpers.log_error("no worker has a GPU")` → `nil`
function Helpers.log_error(message) end

---Log a line at level debug.
---@param message any
---Example: `helpers.log_debug(context.now_ms)` → `nil`
function Helpers.log_debug(message) end

---Give out a figure of the policy's own, at most 50 a decision.
---@param name string Of a-z, 0-9 and _, at most 64 bytes.
---@param value number
---@return boolean # false: it was not finite, or one too many
---Example: `helpers.emit_metric("batch_share", 0.25)` → `true`
function Helpers.emit_metric(name, value) end

---The instant of the decision; it stands still during one.
---@return integer # milliseconds
---Example: `helpers.now()` → `600000`
function Helpers.now() end

---Milliseconds from an instant to now; 0 if it lies ahead.
---@param instant_ms number
---@return number
---Example: `helpers.elapsed_since(599000)` → `1000`
function Helpers.elapsed_since(instant_ms) end

---The mean of numbers, given one by one or as a list.
---@param ... number|number[]
---@return number? # nil: there are none
---Example: `helpers.average({ 1, 2, 6 })` → `3`
function Helpers.average(...) end

---The greatest of numbers.
---@param ... number|number[]
---@return number?
---Example: `helpers.max({ 1, 2, 6 })` → `6`
function Helpers.max(...) end

---The least of numbers.
---@param ... number|number[]
---@return number?
---Example: `helpers.min(4, 2, 6)` → `2`
function Helpers.min(...) end

---Whether a text has another in it, as it stands.
---@param whole_text string
---@param part string
---@return boolean
---Example: `helpers.string_contains("llama-70b", "70b")` → `true`
function Helpers.string_contains(whole_text, part) end

---Whether a text begins with another.
---@param whole_text string
---@param start string
---@return boolean
---Example: `helpers.string_starts_with("llama-70b", "llama")` → `true`
function Helpers.string_starts_with(whole_text, start) end

---The great circle between two places, given as two `geo` or as four numbers (latitude, longitude, twice).
---@param lat Geo|number
---@param lon Geo|number
---@param to_lat? number
---@param to_lon? number
---@return number # kilometres; infinite if a place is not known
---Example: `math.floor(helpers.distance(52.37, 4.9, 40.71, -74.01))` → `5863`
function Helpers.distance(lat, lon, to_lat, to_lon) end

---A random number, the same for the same decision: in [0, 1), or whole in [1, low] or [low, high].
---@param low? integer
---@param high? integer
---@return number
---Example: `helpers.random(1, 1)` → `1`
function Helpers.random(low, high) end

-- ## History

---What jobs of a model took, all devices or one: `mean_ms`, `p50_ms`, `p95_ms`, and of how many jobs, `n`. And how many of
---the model's slots urgent work usually keeps busy in this hour of the week and the next: `urgent_slots` and
---`urgent_slots_next`; nil where that hour was never watched.
---@param model_ref string
---@param device? string
---@return table? # nil: none has ended
---Example: `helpers.get_historical_metrics("llama-7b").mean_ms` → `2500`
function Helpers.get_historical_metrics(model_ref, device) end

---How long jobs of a job's model took: mean and 95th percentile; the job's estimate twice, if none has ended.
---@param job Job|string
---@return integer? mean_ms
---@return integer? p95_ms
---Example: `helpers.predict_job_duration("job-1")` → `2500`
function Helpers.predict_job_duration(job) end

-- ## The platform policy
--
-- Also as `platform.schedule(context)` and `platform.get_source()`.

---What the platform policy decides.
---@param context? Context
---@return table # a decision
---Example: `helpers.platform_schedule(context).action` → `"wait"`
function Helpers.platform_schedule(context) end

---The platform policy's source.
---@return string?
---Example: `type(helpers.get_platform_scheduler_source())` → `"string"`
function Helpers.get_platform_scheduler_source() end
