-- The mirror of the queen's world inside a Lua state, and the indexes that answer for it.
--
-- Why it exists: building a table of everything for each decision costs milliseconds, and letting Lua read Python
-- objects costs more and lets a policy out of its box. So the world lives here. The queen sends *deltas*, calls with
-- scalars and strings only; each one brings the records and every index up to date; a decision then costs what it
-- reads and nothing else. The same file runs in the queen's process and in every policy host.
--
-- Load:  local M = load(index)()          the mirror
--        local V = load(views)(M)         what a policy sees of it: read-only
--        local H = load(helpers)(M, V)    the functions that a policy calls
--        M.context()                      the argument of `schedule`
--
-- Units are bytes, milliseconds, tokens and tokens a second. Times are instants of the queen's clock in ms. Nothing in
-- here reads a clock, draws by chance or depends on the order of a hash: two mirrors with the same world answer alike.
--
-- Inside, a job or worker is a *node*: its record (`raw`), its view once somebody asked for it, and the keys that the
-- indexes compare. A *line* is a sorted list of jobs; a *scope* is a set of workers with the heaps asked of it so far.

local error, ipairs, next, pairs, tostring, type = error, ipairs, next, pairs, tostring, type
local concat, insert, remove, sort = table.concat, table.insert, table.remove, table.sort
local format, gmatch, repeated, unpack_string = string.format, string.gmatch, string.rep, string.unpack
local floor, huge, mathtype = math.floor, math.huge, math.type

local M = {}

M.CLASSES = { "interactive", "normal", "batch", "background" }
local RANK = {}
for rank, name in ipairs(M.CLASSES) do RANK[name] = rank end
M.RANK = RANK

M.now = 0
-- Counts up with every delta that changes which workers, GPUs or tenants there are or what they hold.
M.fleet_version, M.queue_version, M.tenant_version = 0, 0, 0

-- ---------------------------------------------------------------------------------------------------------------------
-- Heaps: binary, with the position of each node, so that any node can be moved or removed in O(log n).

local function sift_up(heap, at)
  local less, pos, node = heap.less, heap.pos, heap[at]
  while at > 1 do
    local above = at >> 1
    local other = heap[above]
    if not less(node, other) then break end
    heap[at], pos[other], at = other, at, above
  end
  heap[at], pos[node] = node, at
  return at
end

local function sift_down(heap, at)
  local less, pos, node, n = heap.less, heap.pos, heap[at], heap.n
  while true do
    local below = at << 1
    if below > n then break end
    local other = heap[below]
    if below < n and less(heap[below + 1], other) then
      below = below + 1
      other = heap[below]
    end
    if not less(other, node) then break end
    heap[at], pos[other], at = other, at, below
  end
  heap[at], pos[node] = node, at
end

local function heap_add(heap, node)
  local n = heap.n + 1
  heap.n, heap[n] = n, node
  sift_up(heap, n)
end

local function heap_fix(heap, node)
  local at = heap.pos[node]
  if sift_up(heap, at) == at then sift_down(heap, at) end
end

local function heap_remove(heap, node)
  local n = heap.n
  local at, last = heap.pos[node], heap[n]
  heap[n], heap.n, heap.pos[node] = nil, n - 1, nil
  if last ~= node then
    heap[at], heap.pos[last] = last, at
    heap_fix(heap, last)
  end
end

local function heap_new(less) return { less = less, pos = {}, n = 0 } end

-- The least node that `fits`, or nil. A node's children are never less than it, so only nodes that do not fit and could
-- still be beaten are opened: O(1) when the first fits, O(n) when nothing does.
local function heap_search(heap, fits, a, b)
  local less, n, best = heap.less, heap.n, nil
  if n == 0 then return nil end
  local stack, top = { 1 }, 1
  while top > 0 do
    local at = stack[top]
    top = top - 1
    local node = heap[at]
    if not best or less(node, best) then
      if fits(node, a, b) then
        best = node
      else
        local below = at << 1
        if below <= n then
          top = top + 1
          stack[top] = below
          if below < n then
            top = top + 1
            stack[top] = below + 1
          end
        end
      end
    end
  end
  return best
end
M.heap_search = heap_search

-- ---------------------------------------------------------------------------------------------------------------------
-- Lines: jobs in order of `seq`, oldest first, at items[head..tail]. A job that left is marked `gone` and skipped, and
-- swept out once such jobs are more than half. New jobs are appended; one that comes back is put near the head.

local SWEEP_MIN = 32

local function line_new() return { items = {}, head = 1, tail = 0, count = 0 } end

local function line_add(line, node)
  local items, head, tail, seq = line.items, line.head, line.tail, node.seq
  line.count = line.count + 1
  if tail < head or items[tail].seq < seq then
    line.tail = tail + 1
    items[tail + 1] = node
    return
  end
  local low, high = head, tail
  while low < high do
    local mid = (low + high) // 2
    if items[mid].seq < seq then low = mid + 1 else high = mid end
  end
  if low - head < tail - low then
    for at = head, low - 1 do items[at - 1] = items[at] end
    line.head = head - 1
    items[low - 1] = node
  else
    for at = tail, low, -1 do items[at + 1] = items[at] end
    line.tail = tail + 1
    items[low] = node
  end
end

local function line_sweep(line)
  local kept, n = {}, 0
  for at = line.head, line.tail do
    local node = line.items[at]
    if not node.gone then
      n = n + 1
      kept[n] = node
    end
  end
  line.items, line.head, line.tail = kept, 1, n
end

-- Call after marking the node `gone`.
local function line_drop(line)
  line.count = line.count - 1
  local items, head, tail = line.items, line.head, line.tail
  while head <= tail and items[head].gone do
    items[head] = nil
    head = head + 1
  end
  line.head = head
  if head > tail then
    line.head, line.tail = 1, 0
  elseif tail - head + 1 > SWEEP_MIN and tail - head + 1 > 2 * line.count then
    line_sweep(line)
  end
end

-- ---------------------------------------------------------------------------------------------------------------------
-- Needs. Jobs of one model and tenant whose needs fall into one bucket wait in one line, and stand and fall together.

-- Four steps an octave: monotonic, exact in integers, so the same on every machine.
local function quantised(amount)
  if mathtype(amount) ~= "integer" then
    if type(amount) ~= "number" or amount ~= amount or amount >= 2 ^ 62 then return 0 end
    amount = floor(amount)
  end
  if amount < 4 then return amount < 0 and 0 or amount end
  local octave = 0
  while amount >= 8 do
    amount = amount >> 1
    octave = octave + 1
  end
  return octave * 4 + amount
end
M.quantised = quantised

-- A number for a job that demands nothing special, else a text.
local function need_key(raw)
  local size = quantised((raw.estimated_vram_bytes or 0) // 1048576)
    | quantised(((raw.prompt_tokens or 0) + (raw.max_tokens or 0)) // 512) << 8
  if raw.engine == "" and not raw.demanding then return size end
  return concat({
    size, raw.engine, raw.min_context_tokens, raw.min_compute_capability, raw.quantizations, raw.pin_pool_id,
    raw.prefer_pool_ids, raw.avoid_pool_ids,
  }, "\31")
end

-- ---------------------------------------------------------------------------------------------------------------------
-- Jobs: one line for each class, and below each class by model, tenant and need. Heads are what a decision looks at.

local jobs, job_count = {}, 0
M.jobs = jobs
-- class -> { line, models = { ref -> { line, tenants = { id -> { line, needs = { key -> line } } }, deadlines } }, matched }
local classes = {}
for rank = 1, #M.CLASSES do
  classes[rank] = {
    line = line_new(), models = {}, matched = {}, matched_count = 0, matched_list = nil, unserved = {}, unserved_list = nil,
    by_tenant = {},
  }
end
M.classes = classes
local model_scopes = {}
local waiting_by_tenant = {}
M.waiting_by_tenant = waiting_by_tenant

local function earlier(a, b)
  if a.deadline ~= b.deadline then return a.deadline < b.deadline end
  return a.seq < b.seq
end

-- Keep, for each class, the models that both wait and have an open worker, and those that wait and have no live one.
local function match(class, model)
  local scope, waits = model_scopes[model], class.models[model] ~= nil
  local now = waits and scope ~= nil and scope.open > 0
  local unserved = (waits and (scope == nil or scope.live == 0)) or nil
  if unserved ~= class.unserved[model] then
    class.unserved[model], class.unserved_list = unserved, nil
  end
  if now ~= (class.matched[model] == true) then
    class.matched[model] = now or nil
    class.matched_count = class.matched_count + (now and 1 or -1)
    class.matched_list = nil
  end
end

local function file_job(node)
  local raw = node.raw
  local class = classes[node.rank]
  line_add(class.line, node)
  local group = class.models[node.model]
  if not group then
    group = { line = line_new(), tenants = {}, tenant_count = 0, deadlines = heap_new(earlier) }
    class.models[node.model] = group
    match(class, node.model)
  end
  line_add(group.line, node)
  local lane = group.tenants[node.tenant]
  if not lane then
    lane = { line = line_new(), needs = {}, tenant = node.tenant }
    group.tenants[node.tenant] = lane
    group.tenant_count = group.tenant_count + 1
    group.tenant_list = nil
  end
  line_add(lane.line, node)
  local need = lane.needs[node.need]
  if not need then
    need = line_new()
    lane.needs[node.need] = need
  end
  line_add(need, node)
  if raw.deadline_at then
    node.deadline = raw.deadline_at
    heap_add(group.deadlines, node)
  end
  class.by_tenant[node.tenant] = (class.by_tenant[node.tenant] or 0) + 1
  local waiting = waiting_by_tenant[node.tenant]
  waiting_by_tenant[node.tenant] = (waiting or 0) + 1
  if not waiting then M.turn_joins(node.tenant) end
  job_count = job_count + 1
end

local function unfile_job(node)
  node.gone = true
  local class = classes[node.rank]
  local group = class.models[node.model]
  local lane = group.tenants[node.tenant]
  local need = lane.needs[node.need]
  line_drop(class.line)
  line_drop(group.line)
  line_drop(lane.line)
  line_drop(need)
  if node.deadline then heap_remove(group.deadlines, node) end
  if need.count == 0 then lane.needs[node.need] = nil end
  if lane.line.count == 0 then
    group.tenants[node.tenant] = nil
    group.tenant_count = group.tenant_count - 1
    group.tenant_list = nil
  end
  if group.line.count == 0 then
    class.models[node.model] = nil
    match(class, node.model)
  end
  local left_of_class = class.by_tenant[node.tenant] - 1
  class.by_tenant[node.tenant] = left_of_class > 0 and left_of_class or nil
  local left = waiting_by_tenant[node.tenant] - 1
  waiting_by_tenant[node.tenant] = left > 0 and left or nil
  if left == 0 then M.turn_leaves(node.tenant) end
  job_count = job_count - 1
end

local function take_out(id)
  local node = jobs[id]
  if node then
    jobs[id] = nil
    unfile_job(node)
    M.queue_version = M.queue_version + 1
  end
  return node
end

-- A job that waits, new or anew. The arguments after `engine` are demands that most jobs do not have.
function M.job(
  id, seq, tenant_id, session_id, priority, model_ref, prompt_hash, prompt_tokens, max_tokens, expected_tokens, seed,
  created_at, queued_at, attempt, deadline_at, estimated_vram_bytes, estimated_duration_ms, cost_units, type_,
  geo_lat, geo_lon, engine, min_context_tokens, min_compute_capability, quantizations, pin_pool_id, prefer_pool_ids,
  avoid_pool_ids)
  local rank = RANK[priority] or error("job " .. tostring(id) .. ": unknown priority " .. tostring(priority), 2)
  take_out(id)
  local raw = {
    id = id, seq = seq, tenant_id = tenant_id, session_id = session_id, priority = priority, model_ref = model_ref,
    prompt_hash = prompt_hash, prompt_tokens = prompt_tokens, max_tokens = max_tokens,
    expected_tokens = expected_tokens, seed = seed, created_at = created_at, queued_at = queued_at, attempt = attempt,
    deadline_at = deadline_at, estimated_vram_bytes = estimated_vram_bytes,
    estimated_duration_ms = estimated_duration_ms, cost_units = cost_units, type = type_, geo_lat = geo_lat,
    geo_lon = geo_lon, engine = engine or "", min_context_tokens = min_context_tokens or 0,
    min_compute_capability = min_compute_capability or "", quantizations = quantizations or "",
    pin_pool_id = pin_pool_id or "", prefer_pool_ids = prefer_pool_ids or "", avoid_pool_ids = avoid_pool_ids or "",
  }
  local node = { raw = raw, id = id, seq = seq, rank = rank, model = model_ref, tenant = tenant_id }
  raw.demanding = raw.min_context_tokens ~= 0 or raw.min_compute_capability ~= "" or raw.quantizations ~= ""
    or raw.pin_pool_id ~= "" or raw.prefer_pool_ids ~= "" or raw.avoid_pool_ids ~= ""
  node.need = need_key(raw)
  jobs[id] = node
  if M.job_made then M.job_made(node) end
  file_job(node)
  M.queue_version = M.queue_version + 1
end

-- A label of a job that waits; `value` nil takes it away. They come after their job, and anew when it is replaced.
function M.job_label(id, name, value)
  local node = jobs[id]
  if not node then return end
  local labels = node.raw.label_values
  if not labels then
    labels = {}
    node.raw.label_values = labels
  end
  labels[name] = value
end

function M.job_gone(id) take_out(id) end

-- Whether jobs of a class wait, how many, and the oldest.
function M.waiting(rank) return classes[rank].line.count end

function M.waiting_for(rank, model)
  local group = classes[rank].models[model]
  return group and group.line.count or 0
end

local function head_of(line)
  if line and line.count > 0 then return line.items[line.head] end
  return nil
end

function M.head(rank) return head_of(classes[rank].line) end

function M.model_head(rank, model)
  local group = classes[rank].models[model]
  return group and head_of(group.line)
end

function M.tenant_head(rank, model, tenant)
  local group = classes[rank].models[model]
  local lane = group and group.tenants[tenant]
  return lane and head_of(lane.line)
end

function M.earliest_deadline(rank, model)
  local group = classes[rank].models[model]
  return group and group.deadlines[1]
end

-- Models of a class for which jobs wait and a worker is open, in the order of their names. Do not change the list.
function M.dispatchable(rank)
  local class = classes[rank]
  local list = class.matched_list
  if not list then
    list = {}
    for model in pairs(class.matched) do list[#list + 1] = model end
    sort(list)
    class.matched_list = list
  end
  return list
end

-- Models of a class for which jobs wait and no worker is there or loading, by name. Do not change the list.
function M.unserved(rank)
  local class = classes[rank]
  local list = class.unserved_list
  if not list then
    list = {}
    for model in pairs(class.unserved) do list[#list + 1] = model end
    sort(list)
    class.unserved_list = list
  end
  return list
end

-- Tenants of a class and model with waiting jobs, in the order of their ids. Do not change the list.
function M.tenants_waiting(rank, model)
  local group = classes[rank].models[model]
  if not group then return {} end
  local list = group.tenant_list
  if not list then
    list = {}
    for tenant in pairs(group.tenants) do list[#list + 1] = tenant end
    sort(list)
    group.tenant_list = list
  end
  return list
end

local function older(a, b) return a.seq < b.seq end

-- The oldest job of each need of one tenant, oldest first, added to `found`.
function M.tenant_heads(rank, model, tenant, found)
  found = found or {}
  local group = classes[rank].models[model]
  local lane = group and group.tenants[tenant]
  if not lane then return found end
  local from = #found
  for _, need in pairs(lane.needs) do found[#found + 1] = head_of(need) end
  if #found - from > 1 then sort(found, older) end
  return found
end

-- The oldest job of each tenant and need of a model, oldest first.
function M.model_heads(rank, model)
  local found = {}
  local group = classes[rank].models[model]
  if group then
    for _, lane in pairs(group.tenants) do
      for _, need in pairs(lane.needs) do found[#found + 1] = head_of(need) end
    end
    sort(found, older)
  end
  return found
end

-- Walk a line's jobs, oldest first. The line must not change meanwhile.
function M.walk(line)
  local at, tail, items = line.head - 1, line.tail, line.items
  return function()
    repeat at = at + 1 until at > tail or not items[at].gone
    return at <= tail and items[at] or nil
  end
end

-- ---------------------------------------------------------------------------------------------------------------------
-- Workers. Each belongs to four scopes: all, its model, its pool, and its model in its pool.

local workers, worker_count, busy_count = {}, 0, 0
M.workers = workers
local refile_runs

-- Orders that workers are asked in. Every one ends in the id, so that ties fall alike everywhere.
local function by_load(a, b)
  if a.load ~= b.load then return a.load < b.load end
  if a.vram ~= b.vram then return a.vram > b.vram end
  return a.id < b.id
end
local function by_vram(a, b)
  if a.vram ~= b.vram then return a.vram > b.vram end
  if a.load ~= b.load then return a.load < b.load end
  return a.id < b.id
end
local function by_id(a, b) return a.id < b.id end
local function by_use(a, b)
  if a.used ~= b.used then return a.used < b.used end
  return a.id < b.id
end
local function by_served(a, b)
  if a.served ~= b.served then return a.served < b.served end
  return by_use(a, b)
end
local function by_cost(a, b)
  if a.cost ~= b.cost then return a.cost < b.cost end
  return by_load(a, b)
end
local function by_speed(a, b)
  if a.speed ~= b.speed then return a.speed > b.speed end
  return by_load(a, b)
end
-- `open` workers can take a job; `idle` ones hold none, and only they may be evicted.
local ORDERS = {
  load = { less = by_load, member = "open" },
  vram = { less = by_vram, member = "open" },
  id = { less = by_id, member = "open" },
  turn = { less = by_use, member = "open" },
  cost = { less = by_cost, member = "open" },
  speed = { less = by_speed, member = "open" },
  lru = { less = by_use, member = "idle" },
  lfu = { less = by_served, member = "idle" },
}

local function scope_new() return { members = {}, heaps = {}, built = {}, open = 0, live = 0, slots = 0 } end

local all_scope = scope_new()
local pool_scopes = {}
M.model_scopes, M.pool_scopes, M.all_scope = model_scopes, pool_scopes, all_scope

-- The scope of a model and pool, each optional; nil if it has no worker.
local function scope_of(model, pool)
  if not model then return not pool and all_scope or pool_scopes[pool] end
  local scope = model_scopes[model]
  if scope and pool then return scope.pools[pool] end
  return scope
end
M.scope_of = scope_of

-- The heap of a scope in an order, built when it is first asked for and kept up to date from then on.
local function heap_of(scope, name)
  local heap = scope.heaps[name]
  if heap then return heap end
  local order = ORDERS[name]
  heap = heap_new(order.less)
  heap.member = order.member
  for _, node in ipairs(scope.members) do
    if node[order.member] then heap_add(heap, node) end
  end
  scope.heaps[name] = heap
  scope.built[#scope.built + 1] = heap
  return heap
end
M.heap_of = heap_of

local function place_of(members, id)
  local low, high = 1, #members + 1
  while low < high do
    local mid = (low + high) // 2
    if members[mid].id < id then low = mid + 1 else high = mid end
  end
  return low
end

local function join(scope, node)
  insert(scope.members, place_of(scope.members, node.id), node)
  scope.list = nil
end

local function leave(scope, node)
  remove(scope.members, place_of(scope.members, node.id))
  scope.list = nil
  for _, heap in ipairs(scope.built) do
    if heap.pos[node] then heap_remove(heap, node) end
  end
  if node.open then scope.open = scope.open - 1 end
  if node.live then scope.live = scope.live - 1 end
  return #scope.members == 0
end

local function sub_scope(scopes, key)
  local scope = scopes[key]
  if not scope then
    scope = scope_new()
    scope.pools = {}
    scopes[key] = scope
  end
  return scope
end

local function enlist(node)
  local by_model = sub_scope(model_scopes, node.model)
  node.scopes = { all_scope, by_model, sub_scope(pool_scopes, node.pool), sub_scope(by_model.pools, node.pool) }
  for at = 1, 4 do join(node.scopes[at], node) end
end

local function rematch(model)
  for rank = 1, #classes do match(classes[rank], model) end
end

local function delist(node)
  local scopes = node.scopes
  leave(scopes[1], node)
  if leave(scopes[4], node) then scopes[2].pools[node.pool] = nil end
  if leave(scopes[3], node) then pool_scopes[node.pool] = nil end
  if leave(scopes[2], node) then model_scopes[node.model] = nil end
  node.open, node.idle, node.live = false, false, false
  rematch(node.model)
end

local POOL_CLOSED = { offline = true, stale = true, draining = true, unhealthy = true }
local pools = {}
M.pools, M.POOL_CLOSED = pools, POOL_CLOSED

-- Bring every index up to date after a change of the worker's keys.
local function refile(node)
  local raw = node.raw
  local status, free = raw.status, raw.slots_free
  local pool = pools[node.pool]
  local open = free > 0 and (status == "ready" or status == "busy") and not (pool and POOL_CLOSED[pool.raw.status])
  node.idle = open and free >= raw.slots_total
  local scopes, flipped = node.scopes, open ~= node.open
  node.open = open
  -- What loads will serve its model soon: no second worker is started for it.
  local live = status == "ready" or status == "busy" or status == "starting"
  local revived = live ~= node.live
  node.live = live
  for at = 1, 4 do
    local scope = scopes[at]
    if flipped then scope.open = scope.open + (open and 1 or -1) end
    if revived then scope.live = scope.live + (live and 1 or -1) end
    local built = scope.built
    for number = 1, #built do
      local heap = built[number]
      if node[heap.member] then
        if heap.pos[node] then heap_fix(heap, node) else heap_add(heap, node) end
      elseif heap.pos[node] then
        heap_remove(heap, node)
      end
    end
  end
  if (flipped and scopes[2].open <= 1) or (revived and scopes[2].live <= 1) then rematch(node.model) end
end

-- A worker, new or changed. The arguments after `gpu_ids_csv` are what only some deployments know.
function M.worker(
  id, pool_id, status, model_ref, engine, slots_total, slots_free, vram_free, kv_free_tokens, load, tokens_per_s,
  cost_per_token, geo_lat, geo_lon, capability, started_at, last_used_at, gpu_ids_csv, jobs_served, context_tokens,
  quantization)
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
  local raw = node.raw
  raw.id, raw.pool_id, raw.status, raw.model_ref, raw.engine = id, pool_id, status, model_ref, engine or ""
  raw.slots_total, raw.slots_free, raw.vram_free, raw.kv_free_tokens =
    slots_total, slots_free, vram_free or 0, kv_free_tokens
  raw.load, raw.tokens_per_s, raw.cost_per_token = load or 0, tokens_per_s or 0, cost_per_token
  raw.geo_lat, raw.geo_lon, raw.capability = geo_lat, geo_lon, capability or ""
  raw.started_at, raw.last_used_at, raw.gpu_ids_csv = started_at or 0, last_used_at or 0, gpu_ids_csv or ""
  raw.jobs_served, raw.context_tokens, raw.quantization = jobs_served or 0, context_tokens or 0, quantization or ""
  node.load, node.vram, node.used, node.served = raw.load, raw.vram_free, raw.last_used_at, raw.jobs_served
  node.cost, node.speed = cost_per_token or huge, tokens_per_s or 0
  if M.worker_made then M.worker_made(node) end
  if is_new then
    enlist(node)
    refile_runs(id)
  end
  refile(node)
  M.fleet_version = M.fleet_version + 1
end

-- What changes while a worker works: cheaper than sending all of it. Unknown workers are ignored.
function M.worker_load(id, status, slots_free, vram_free, kv_free_tokens, load, last_used_at, jobs_served)
  local node = workers[id]
  if not node then return end
  local raw = node.raw
  local was_busy, is_busy = raw.slots_free < raw.slots_total, slots_free < raw.slots_total
  if was_busy ~= is_busy then busy_count = busy_count + (is_busy and 1 or -1) end
  raw.status, raw.slots_free, raw.vram_free, raw.kv_free_tokens = status, slots_free, vram_free, kv_free_tokens
  raw.load, raw.last_used_at = load, last_used_at
  if jobs_served then raw.jobs_served = jobs_served end
  node.load, node.vram, node.used, node.served = load, vram_free, last_used_at, raw.jobs_served
  refile(node)
  M.fleet_version = M.fleet_version + 1
end

function M.worker_gone(id)
  local node = workers[id]
  if not node then return end
  for prompt_hash in pairs(node.prefixes or {}) do M.prefix(id, prompt_hash, nil) end
  workers[id] = nil
  refile_runs(id)
  delist(node)
  worker_count = worker_count - 1
  if node.raw.slots_free < node.raw.slots_total then busy_count = busy_count - 1 end
  M.fleet_version = M.fleet_version + 1
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

-- ---------------------------------------------------------------------------------------------------------------------
-- Running jobs: what could be taken back for somebody more urgent. Below each model, the least urgent and, among those,
-- the youngest first, since it loses the least work.

local runs, runs_by_worker, victims, stopping = {}, {}, {}, {}
-- `stopping`: how many jobs of a model were told to stop and have not yet.
M.runs, M.victims, M.stopping = runs, victims, stopping

local function sooner_preempted(a, b)
  if a.rank ~= b.rank then return a.rank > b.rank end
  if a.started ~= b.started then return a.started > b.started end
  return a.id < b.id
end

local function unfile_run(run)
  local heap = run.model and victims[run.model]
  if heap and heap.pos[run] then
    heap_remove(heap, run)
    if heap.n == 0 then victims[run.model] = nil end
  end
  if run.model and run.raw.is_stopping then
    local left = stopping[run.model] - 1
    stopping[run.model] = left > 0 and left or nil
  end
  run.model = nil
end

-- A job that its worker was told to stop is nobody's victim; nor is one whose worker is not known (yet).
local function file_run(run)
  local worker = workers[run.raw.worker_id]
  if not worker then return end
  run.model = worker.model
  if run.raw.is_stopping then
    stopping[run.model] = (stopping[run.model] or 0) + 1
    return
  end
  local heap = victims[run.model]
  if not heap then
    heap = heap_new(sooner_preempted)
    victims[run.model] = heap
  end
  heap_add(heap, run)
end

function M.running_gone(job_id)
  local run = runs[job_id]
  if not run then return end
  unfile_run(run)
  runs[job_id] = nil
  local of_worker = runs_by_worker[run.raw.worker_id]
  of_worker[job_id] = nil
  if not next(of_worker) then runs_by_worker[run.raw.worker_id] = nil end
  M.queue_version = M.queue_version + 1
end

-- A job that holds a slot of a worker.
function M.running(job_id, worker_id, tenant_id, priority, kv_tokens, started_at, is_stopping)
  M.running_gone(job_id)
  local run = {
    id = job_id, rank = RANK[priority] or error("job " .. tostring(job_id) .. ": unknown priority", 2),
    started = started_at or 0,
    raw = {
      id = job_id, job_id = job_id, worker_id = worker_id, tenant_id = tenant_id, priority = priority,
      kv_tokens = kv_tokens or 0, started_at = started_at or 0, is_stopping = is_stopping == true,
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

-- A worker came or left: its jobs with it.
refile_runs = function(worker_id)
  for _, run in pairs(runs_by_worker[worker_id] or {}) do
    unfile_run(run)
    file_run(run)
  end
end

-- The running job of a model that is preempted first, of those of a class after `rank`; nil if there is none.
function M.victim(model, rank, fits, a, b)
  local heap = victims[model]
  if not heap or heap[1].rank <= rank then return nil end
  if not fits then return heap[1] end
  local found = heap_search(heap, fits, a, b)
  return found and found.rank > rank and found or nil
end

-- ---------------------------------------------------------------------------------------------------------------------
-- Answers about workers.

local function takes(node, bytes, tokens)
  local free = node.raw.kv_free_tokens
  return node.vram >= bytes and (free == nil or free >= tokens)
end

-- The first open worker of a scope in an order with so many bytes and KV tokens free; nil if there is none.
function M.best(model, pool, order, bytes, tokens)
  local scope = scope_of(model, pool)
  if not scope or scope.open == 0 then return nil end
  local heap = heap_of(scope, order)
  bytes, tokens = bytes or 0, tokens or 0
  local first = heap[1]
  if takes(first, bytes, tokens) then return first end
  if bytes > 0 and heap_of(scope, "vram")[1].vram < bytes then return nil end
  return heap_search(heap, takes, bytes, tokens)
end

-- The first worker of a scope in an order for which `fits(node, a, b)`; members as the order says, open or idle.
function M.first(model, pool, order, fits, a, b)
  local scope = scope_of(model, pool)
  if not scope then return nil end
  local heap = heap_of(scope, order)
  if fits then return heap_search(heap, fits, a, b) end
  return heap[1]
end

-- How many open workers a scope has.
function M.open_count(model, pool)
  local scope = scope_of(model, pool)
  return scope and scope.open or 0
end

-- ---------------------------------------------------------------------------------------------------------------------
-- Pools, GPUs, tenants, models, figures: few, so sorted lists are enough.

local function sorted_insert(list, node, key)
  local low, high = 1, #list + 1
  while low < high do
    local mid = (low + high) // 2
    if list[mid][key] < node[key] then low = mid + 1 else high = mid end
  end
  insert(list, low, node)
end

local function sorted_remove(list, node)
  for at, other in ipairs(list) do
    if other == node then
      remove(list, at)
      return
    end
  end
end

-- All GPUs, the one with the most free memory first.
local roomiest = heap_new(function(a, b)
  if a.raw.vram_free ~= b.raw.vram_free then return a.raw.vram_free > b.raw.vram_free end
  if a.pool ~= b.pool then return a.pool < b.pool end
  return a.key < b.key
end)
M.roomiest = roomiest

local pool_list, tenant_list = {}, {}
M.pool_list, M.tenant_list = pool_list, tenant_list

-- The node of a pool; a pool that only its workers have named so far has no status.
function M.pool_of(id)
  local node = pools[id]
  if not node then
    node = { id = id, raw = { id = id, status = "", last_report_ms = 0 }, gpus = {}, gpu_list = {} }
    pools[id] = node
    sorted_insert(pool_list, node, "id")
    M.pool_views = nil
    if M.pool_made then M.pool_made(node) end
  end
  return node
end

function M.pool(id, status, last_report_ms)
  local node = M.pool_of(id)
  local was_closed = POOL_CLOSED[node.raw.status]
  node.raw.status, node.raw.last_report_ms, node.told = status or "", last_report_ms or 0, true
  if was_closed ~= POOL_CLOSED[node.raw.status] and pool_scopes[id] then
    for _, worker in ipairs(pool_scopes[id].members) do refile(worker) end
  end
  M.fleet_version = M.fleet_version + 1
end

-- Forget a pool's status and GPUs; its workers stay until they are told gone.
function M.pool_gone(id)
  local node = pools[id]
  if not node then return end
  M.pool(id, "", 0)
  for _, gpu in ipairs(node.gpu_list) do heap_remove(roomiest, gpu) end
  node.told, node.gpus, node.gpu_list, node.gpu_views = nil, {}, {}, nil
  if not pool_scopes[id] then
    pools[id], M.pool_views = nil, nil
    sorted_remove(pool_list, node)
  end
  M.fleet_version = M.fleet_version + 1
end

-- GPUs are ordered by id as text, since ids are numbers in one deployment and UUIDs in the next.
function M.gpu(
  pool_id, id, name, vram_total, vram_allocated, vram_free, utilization, temperature_c, power_w, compute_capability)
  local pool = M.pool_of(pool_id)
  local key = format("%20s", tostring(id))
  local node = pool.gpus[key]
  if not node then
    node = { key = key, id = id, pool = pool_id }
    pool.gpus[key] = node
    sorted_insert(pool.gpu_list, node, "key")
  end
  pool.gpu_views, node.view = nil, nil
  node.raw = {
    id = id, pool_id = pool_id, name = name or "", vram_total = vram_total or 0, vram_allocated = vram_allocated or 0,
    vram_free = vram_free or 0, utilization = utilization, temperature_c = temperature_c, power_w = power_w,
    compute_capability = compute_capability or "",
  }
  if roomiest.pos[node] then heap_fix(roomiest, node) else heap_add(roomiest, node) end
  M.fleet_version = M.fleet_version + 1
end

function M.find_gpu(pool_id, id)
  local pool = pools[pool_id]
  return pool and pool.gpus[format("%20s", tostring(id))]
end

function M.gpu_gone(pool_id, id)
  local pool, node = pools[pool_id], M.find_gpu(pool_id, id)
  if not node then return end
  pool.gpus[node.key], pool.gpu_views = nil, nil
  sorted_remove(pool.gpu_list, node)
  heap_remove(roomiest, node)
  M.fleet_version = M.fleet_version + 1
end

local tenants = {}
M.tenants = tenants

-- Quotas that are nil are not enforced.
function M.tenant(
  id, quota_vram, quota_used, quota_jobs, jobs_running, tokens_served, tokens_per_minute, weight)
  local node = tenants[id]
  if not node then
    node = { id = id, raw = { id = id } }
    tenants[id] = node
    sorted_insert(tenant_list, node, "id")
    M.tenant_views = nil
  end
  local raw = node.raw
  raw.quota_vram, raw.quota_used, raw.quota_jobs, raw.jobs_running = quota_vram, quota_used or 0, quota_jobs,
    jobs_running or 0
  raw.tokens_served, raw.tokens_per_minute, raw.weight = tokens_served or 0, tokens_per_minute, weight or 1
  M.tenant_version = M.tenant_version + 1
  M.turn_moves(id)
end

function M.tenant_gone(id)
  local node = tenants[id]
  if not node then return end
  tenants[id], M.tenant_views = nil, nil
  M.turn_moves(id)
  sorted_remove(tenant_list, node)
  M.tenant_version = M.tenant_version + 1
end

-- Turns: the tenants with waiting jobs, whoever was served least for its weight first, then whoever runs least. A tenant
-- that was never told of was never served.
local turns, turn_list = {}, {}
M.turn_list = turn_list

local function sooner(a, b)
  if a.share ~= b.share then return a.share < b.share end
  if a.running ~= b.running then return a.running < b.running end
  return a.id < b.id
end

local function turn_place(turn)
  local low, high = 1, #turn_list + 1
  while low < high do
    local mid = (low + high) // 2
    if sooner(turn_list[mid], turn) then low = mid + 1 else high = mid end
  end
  return low
end

local function shares_of(id)
  local node = tenants[id]
  if not node then return 0, 0 end
  local raw = node.raw
  if not (raw.weight > 0) then return huge, huge end
  return raw.tokens_served / raw.weight, raw.jobs_running / raw.weight
end

function M.turn_joins(id)
  local share, running = shares_of(id)
  local turn = { id = id, share = share, running = running }
  turns[id] = turn
  insert(turn_list, turn_place(turn), turn)
end

function M.turn_leaves(id)
  remove(turn_list, turn_place(turns[id]))
  turns[id] = nil
end

function M.turn_moves(id)
  local turn = turns[id]
  if not turn then return end
  local share, running = shares_of(id)
  if share == turn.share and running == turn.running then return end
  remove(turn_list, turn_place(turn))
  turn.share, turn.running = share, running
  insert(turn_list, turn_place(turn), turn)
end

local models, aliases, metrics, config, history = {}, {}, {}, {}, {}
M.models, M.aliases, M.metrics, M.config_values, M.histories = models, aliases, metrics, config, history

function M.model(ref, family, vram_required, size_bytes, context, quantization)
  models[ref] = {
    raw = {
      id = ref, ref = ref, family = family or "", vram_required = vram_required or 0, size_bytes = size_bytes or 0,
      context = context or 0, quantization = quantization or "",
    },
  }
  M.catalog_changed = true
end

function M.model_gone(ref)
  models[ref] = nil
  M.catalog_changed = true
end

-- The setters below forget what is set to nil.
function M.alias(name, ref)
  aliases[name] = ref
end

function M.metric(name, value)
  metrics[name] = value
end

function M.config(name, value)
  config[name] = value
end

-- What jobs of a model took on a device, from those that ended.
function M.history(model_ref, device, mean_ms, p95_ms, n)
  local devices = history[model_ref]
  if not devices then
    devices = {}
    history[model_ref] = devices
  end
  devices[device] = n and n > 0
      and { raw = { model_ref = model_ref, device = device, mean_ms = mean_ms, p95_ms = p95_ms, n = n } }
    or nil
end

-- A model's own name for an alias or name; what nobody knows is returned as it is.
function M.resolve(name) return aliases[name] or name end

-- ---------------------------------------------------------------------------------------------------------------------
-- Decisions.

local DELTAS = {}
for _, name in ipairs({
  "worker", "worker_load", "worker_gone", "prefix", "job", "job_label", "job_gone", "running", "running_gone", "pool", "pool_gone", "gpu",
  "gpu_gone", "tenant", "tenant_gone", "model", "model_gone", "alias", "metric", "config", "history",
}) do DELTAS[name] = M[name] end
M.deltas = DELTAS

-- Apply one delta by name.
function M.apply(kind, ...)
  local delta = DELTAS[kind] or error("unknown delta " .. tostring(kind), 2)
  return delta(...)
end

-- What the policy logged and measured in this decision, and whose turn it is in its round robins.
M.logs, M.emitted, M.turns = {}, {}, {}
local chance = 0

-- Open a decision: from here to the next `begin`, time stands still.
function M.begin(now_ms, seed)
  M.now = now_ms
  chance = seed
  if M.logs[1] then M.logs = {} end
  if M.emitted[1] then M.emitted = {} end
  if next(M.turns) then M.turns = {} end
  if M.begun then M.begun() end
end

-- The next of the decision's 64-bit random numbers (splitmix64: the same on every machine).
local function next_chance()
  chance = chance + 0x9E3779B97F4A7C15
  local z = chance
  z = (z ~ (z >> 30)) * 0xBF58476D1CE4E5B9
  z = (z ~ (z >> 27)) * 0x94D049BB133111EB
  return z ~ (z >> 31)
end

-- A number in [0, 1), or a whole one in [1, low] or [low, high].
function M.random(low, high)
  local fraction = (next_chance() >> 11) * (1.0 / 9007199254740992.0)
  if low == nil then return fraction end
  if high == nil then low, high = 1, low end
  if not (low <= high) then error("bad argument to 'random' (interval is empty)", 2) end
  return low + floor(fraction * (high - low + 1))
end

function M.counts()
  return job_count, worker_count, busy_count, #pool_list, #tenant_list
end

-- ---------------------------------------------------------------------------------------------------------------------
-- Digest: for each kind, how many records and the sum of their hashes. Equal to the Python world's, in any order.

local function canonical(value)
  if value == nil then return "~" end
  if mathtype(value) == "integer" then return format("%d", value) end
  if mathtype(value) == "float" then return format("%.17g", value) end
  return tostring(value)
end

local function hash(text)
  local n = #text
  text = text .. repeated("\0", -n % 8)
  local state = n
  for at = 1, #text, 8 do
    state = (state ~ unpack_string("<i8", text, at)) * 0x9E3779B97F4A7C15
    state = state ~ (state >> 29)
  end
  return state
end

local FIELDS = {
  job = {
    "id", "seq", "tenant_id", "session_id", "priority", "model_ref", "prompt_hash", "prompt_tokens", "max_tokens",
    "expected_tokens", "seed", "created_at", "queued_at", "attempt", "deadline_at", "estimated_vram_bytes",
    "estimated_duration_ms", "cost_units", "type", "geo_lat", "geo_lon", "engine", "min_context_tokens",
    "min_compute_capability", "quantizations", "pin_pool_id", "prefer_pool_ids", "avoid_pool_ids",
  },
  worker = {
    "id", "pool_id", "status", "model_ref", "engine", "slots_total", "slots_free", "vram_free", "kv_free_tokens",
    "load", "tokens_per_s", "cost_per_token", "geo_lat", "geo_lon", "capability", "started_at", "last_used_at",
    "gpu_ids_csv", "jobs_served", "context_tokens", "quantization",
  },
  running = { "job_id", "worker_id", "tenant_id", "priority", "kv_tokens", "started_at", "is_stopping" },
  pool = { "id", "status", "last_report_ms" },
  gpu = {
    "pool_id", "id", "name", "vram_total", "vram_allocated", "vram_free", "utilization", "temperature_c", "power_w",
    "compute_capability",
  },
  tenant = {
    "id", "quota_vram", "quota_used", "quota_jobs", "jobs_running", "tokens_served", "tokens_per_minute", "weight",
  },
  model = { "ref", "family", "vram_required", "size_bytes", "context", "quantization" },
  history = { "model_ref", "device", "mean_ms", "p95_ms", "n" },
}

local tally
local function count(kind, ...)
  local parts = { kind, ... }
  local entry = tally[kind]
  if not entry then
    entry = { 0, 0 }
    tally[kind] = entry
  end
  entry[1], entry[2] = entry[1] + 1, entry[2] + hash(concat(parts, "\31"))
end

local function count_record(kind, raw)
  local parts = {}
  for at, name in ipairs(FIELDS[kind]) do parts[at] = canonical(raw[name]) end
  count(kind, concat(parts, "\31"))
end

local function count_map(kind, values)
  for name, value in pairs(values) do count(kind, canonical(name), canonical(value)) end
end

function M.digest()
  tally = {}
  for id, node in pairs(jobs) do
    count_record("job", node.raw)
    for name, value in pairs(node.raw.label_values or {}) do count("label", id, name, canonical(value)) end
  end
  for _, run in pairs(runs) do count_record("running", run.raw) end
  for id, node in pairs(workers) do
    count_record("worker", node.raw)
    for prompt, tokens in pairs(node.prefixes or {}) do count("prefix", id, prompt, canonical(tokens)) end
  end
  for _, pool in ipairs(pool_list) do
    if pool.told then count_record("pool", pool.raw) end
    for _, gpu in ipairs(pool.gpu_list) do count_record("gpu", gpu.raw) end
  end
  for _, node in ipairs(tenant_list) do count_record("tenant", node.raw) end
  for _, node in pairs(models) do count_record("model", node.raw) end
  for _, devices in pairs(history) do
    for _, node in pairs(devices) do count_record("history", node.raw) end
  end
  count_map("alias", aliases)
  count_map("metric", metrics)
  count_map("config", config)
  local parts = {}
  for kind, entry in pairs(tally) do parts[#parts + 1] = format("%s:%d:%016x", kind, entry[1], entry[2]) end
  sort(parts)
  return concat(parts, " ")
end

M.csv = function(text)
  local list = {}
  for part in gmatch(text, "[^,]+") do list[#list + 1] = part end
  return list
end

return M
