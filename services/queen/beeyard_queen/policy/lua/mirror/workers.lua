-- Workers, and what of prompts is in their caches.

local M = ...

local ipairs, next = ipairs, next
local heaps = M.heaps
local key_worker = M.key_worker

local workers, worker_count, busy_count = {}, 0, 0
-- `leaving`: workers that will end and free their memory.
local leaving = {}
M.workers, M.leaving = workers, leaving

function M.worker_counts() return worker_count, busy_count end

M.POOL_CLOSED = { offline = true, stale = true, draining = true, unhealthy = true }

local function refile_in(scope, node)
  local built = scope.built
  for number = 1, #built do
    local heap = built[number]
    if heap.pos[node] then
      if node[heap.member] then heaps.fix(heap, node) else heaps.remove(heap, node) end
    elseif node[heap.member] then
      heaps.add(heap, node)
    end
  end
end

-- Bring every index up to date after a change of the worker's record.
local function refile(node)
  local raw, scopes = node.raw, node.scopes
  local status, free = raw.status, raw.slots_free
  local serves = status == "ready" or status == "busy"
  local open = serves and free > 0 and not M.is_pool_closed(node.pool)
  local idle = open and free >= raw.slots_total
  -- What loads, or was lost and may come back, will serve its model soon: no second worker is started for it.
  local live = serves or status == "starting" or status == "away"
  local opened, revived = open ~= node.open, live ~= node.live
  local leaves = status == "leaving" or nil
  if idle ~= node.idle or leaves ~= leaving[node] then M.room_version = M.room_version + 1 end
  leaving[node] = leaves
  node.open, node.idle, node.live = open, idle, live
  for at = 1, 4 do
    local scope = scopes[at]
    if opened then scope.open = scope.open + (open and 1 or -1) end
    if revived then scope.live = scope.live + (live and 1 or -1) end
    if scope.built[1] then refile_in(scope, node) end
  end
  local of_model = scopes[2]
  of_model.version = of_model.version + 1
  if (opened and of_model.open <= 1) or (revived and of_model.live <= 1) then M.rematch(node.model) end
end

-- A pool closed or opened: so do its workers.
function M.refile_pool(pool_id)
  local scope = M.pool_scopes[pool_id]
  for _, node in ipairs(scope and scope.members or {}) do
    node.scopes[2].refused = false
    refile(node)
  end
end

local function set_record(
  raw, id, pool_id, status, model_ref, engine, slots_total, slots_free, vram_free, kv_free_tokens, load, tokens_per_s,
  cost_per_token, geo_lat, geo_lon, capability, started_at, last_used_at, gpu_ids_csv, jobs_served, context_tokens,
  quantization, prefill_speedup, resident_at, served_class, extensions)
  raw.id, raw.pool_id, raw.status, raw.model_ref, raw.engine = id, pool_id, status, model_ref, engine or ""
  raw.slots_total, raw.slots_free, raw.vram_free, raw.kv_free_tokens =
    slots_total, slots_free, vram_free or 0, kv_free_tokens
  raw.load, raw.tokens_per_s, raw.cost_per_token = load or 0, tokens_per_s or 0, cost_per_token
  raw.geo_lat, raw.geo_lon, raw.capability = geo_lat, geo_lon, capability or ""
  raw.started_at, raw.last_used_at, raw.gpu_ids_csv = started_at or 0, last_used_at or 0, gpu_ids_csv or ""
  raw.jobs_served, raw.context_tokens, raw.quantization = jobs_served or 0, context_tokens or 0, quantization or ""
  raw.prefill_speedup = prefill_speedup or 0
  raw.resident_at, raw.served_class = resident_at or 0, served_class or ""
  raw.extensions = extensions or ""
end

-- A worker, new or changed. The arguments after `gpu_ids_csv` are what only some deployments know.
function M.worker(
  id, pool_id, status, model_ref, engine, slots_total, slots_free, vram_free, kv_free_tokens, load, tokens_per_s,
  cost_per_token, geo_lat, geo_lon, capability, started_at, last_used_at, gpu_ids_csv, jobs_served, context_tokens,
  quantization, prefill_speedup, resident_at, served_class, extensions)
  local node = workers[id]
  if node and (node.model ~= model_ref or node.pool ~= pool_id) then
    M.worker_gone(id)
    node = nil
  end
  local is_new = not node
  if is_new then
    node = { id = id, model = model_ref, pool = pool_id, open = false, idle = false, live = false, raw = {} }
    workers[id] = node
    worker_count = worker_count + 1
    M.pool_of(pool_id)
  elseif node.raw.slots_free < node.raw.slots_total then
    busy_count = busy_count - 1
  end
  if slots_free < slots_total then busy_count = busy_count + 1 end
  -- In place: views that a policy holds stay the worker's.
  set_record(
    node.raw, id, pool_id, status, model_ref, engine, slots_total, slots_free, vram_free, kv_free_tokens, load,
    tokens_per_s, cost_per_token, geo_lat, geo_lon, capability, started_at, last_used_at, gpu_ids_csv, jobs_served,
    context_tokens, quantization, prefill_speedup, resident_at, served_class, extensions)
  key_worker(node)
  M.worker_made(node)
  if is_new then
    M.enlist(node)
    M.refile_runs(id)
  end
  node.scopes[2].refused, M.room_version = false, M.room_version + 1
  refile(node)
end

-- What changes while a worker works: cheaper than sending all of it. Unknown workers are ignored.
function M.worker_load(id, status, slots_free, vram_free, kv_free_tokens, load, last_used_at, jobs_served, served_class)
  local node = workers[id]
  if not node then return end
  local raw = node.raw
  local total, kv = raw.slots_total, raw.kv_free_tokens
  local was_busy, is_busy = raw.slots_free < total, slots_free < total
  if was_busy ~= is_busy then busy_count = busy_count + (is_busy and 1 or -1) end
  local has_more = vram_free > node.vram or (kv_free_tokens == nil and kv ~= nil)
    or (kv ~= nil and kv_free_tokens ~= nil and kv_free_tokens > kv)
  raw.status, raw.slots_free, raw.vram_free, raw.kv_free_tokens = status, slots_free, vram_free, kv_free_tokens
  raw.load, raw.last_used_at = load, last_used_at
  if jobs_served then raw.jobs_served = jobs_served end
  if served_class then raw.served_class = served_class end
  node.load, node.vram, node.used, node.served = load, vram_free, last_used_at, raw.jobs_served
  if has_more or not node.open then node.scopes[2].refused = false end
  refile(node)
end

function M.worker_gone(id)
  local node = workers[id]
  if not node then return end
  for prompt_hash in next, node.prefixes or {} do M.prefix(id, prompt_hash, nil) end
  workers[id], leaving[node] = nil, nil
  M.refile_runs(id)
  M.delist(node)
  worker_count = worker_count - 1
  if node.raw.slots_free < node.raw.slots_total then busy_count = busy_count - 1 end
  M.room_version = M.room_version + 1
end

local prefix_holders = {}
M.prefix_holders = prefix_holders

-- That a worker holds the first `tokens` tokens of the prompt with this hash in its cache; 0 or nil: no longer.
function M.prefix(worker_id, prompt_hash, tokens)
  local node = workers[worker_id]
  if not node then return end
  tokens = tokens and tokens > 0 and tokens or nil
  node.prefixes = node.prefixes or {}
  node.prefixes[prompt_hash] = tokens
  local holders = prefix_holders[prompt_hash]
  if tokens and not holders then
    holders = {}
    prefix_holders[prompt_hash] = holders
  end
  if holders then
    holders[worker_id] = tokens
    if not next(holders) then prefix_holders[prompt_hash] = nil end
  end
end
