-- Scopes: sets of workers that questions are asked of: all, those of a model, of a pool, of a model in a pool. Each has
-- the heaps that were asked of it so far.

local M = ...

local ipairs = ipairs
local heaps, lists = M.heaps, M.lists
local huge = math.huge

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
  -- As by_load, in place: the order that every placement is asked in.
  if a.load ~= b.load then return a.load < b.load end
  if a.vram ~= b.vram then return a.vram > b.vram end
  return a.id < b.id
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

-- Bring the keys of a worker's node up to date with its record.
function M.key_worker(node)
  local raw = node.raw
  node.load, node.vram, node.used, node.served = raw.load, raw.vram_free, raw.last_used_at, raw.jobs_served
  node.cost, node.speed = raw.cost_per_token or huge, raw.tokens_per_s
end

-- `open`, `live`: how many are. `version` counts the changes of its workers and of what runs on them. `refused`: what
-- plain jobs no worker could take, see `M.place_for`.
local function scope_new()
  return { members = {}, heaps = {}, built = {}, open = 0, live = 0, version = 0, refused = false }
end

local model_scopes, pool_scopes, all_scope = M.model_scopes, {}, scope_new()
M.pool_scopes, M.all_scope = pool_scopes, all_scope

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
  heap = heaps.new(order.less)
  heap.member = order.member
  for _, node in ipairs(scope.members) do
    if node[order.member] then heaps.add(heap, node) end
  end
  scope.heaps[name] = heap
  scope.built[#scope.built + 1] = heap
  return heap
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

-- A worker joins the four scopes that it belongs to.
function M.enlist(node)
  local by_model = sub_scope(model_scopes, node.model)
  node.scopes = { all_scope, by_model, sub_scope(pool_scopes, node.pool), sub_scope(by_model.pools, node.pool) }
  for at = 1, 4 do
    local scope = node.scopes[at]
    lists.insert(scope.members, "id", node)
    scope.list = nil
  end
end

local function leave(scope, node)
  lists.remove(scope.members, "id", node)
  scope.list = nil
  for _, heap in ipairs(scope.built) do
    if heap.pos[node] then heaps.remove(heap, node) end
  end
  if node.open then scope.open = scope.open - 1 end
  if node.live then scope.live = scope.live - 1 end
  return #scope.members == 0
end

-- It leaves them again.
function M.delist(node)
  local scopes = node.scopes
  leave(scopes[1], node)
  if leave(scopes[4], node) then scopes[2].pools[node.pool] = nil end
  if leave(scopes[3], node) then pool_scopes[node.pool] = nil end
  if leave(scopes[2], node) then model_scopes[node.model] = nil end
  node.open, node.idle, node.live = false, false, false
  M.rematch(node.model)
end

-- ---------------------------------------------------------------------------------------------------------------------
-- Answers

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
  return heaps.search(heap, takes, bytes, tokens)
end

-- The first worker of a scope in an order for which `fits(node, a, b)`; members as the order says, open or idle.
function M.first(model, pool, order, fits, a, b)
  local scope = scope_of(model, pool)
  if not scope then return nil end
  local heap = heap_of(scope, order)
  if fits then return heaps.search(heap, fits, a, b) end
  return heap[1]
end

local function has_room(node, need)
  local raw = node.raw
  local free, window = raw.kv_free_tokens, raw.context_tokens
  return node.vram >= need.bytes and (free == nil or free >= need.tokens) and (window == 0 or window >= need.window)
end

-- What is looked for; one table for all searches, since there is one for every decision.
local need = { tokens = 0, window = 0, bytes = 0 }

-- The fastest open worker of a model with room for a plain job, which demands nothing else. What one job was refused, a
-- job that asks for no less is refused without another look, until a worker of the model has more room.
function M.place_for(model, prompt_tokens, max_tokens, bytes)
  local scope = model_scopes[model]
  if not scope or scope.open == 0 then return nil end
  -- The context that it needs for certain: its prompt may be half as long as estimated, and the worker counts.
  local tokens, window = prompt_tokens + max_tokens, prompt_tokens // 2 + max_tokens
  local least = scope.refused
  if least and tokens >= least.tokens and window >= least.window and bytes >= least.bytes then return nil end
  need.tokens, need.window, need.bytes = tokens, window, bytes
  local node = heaps.search(heap_of(scope, "speed"), has_room, need)
  if not node then scope.refused = { tokens = tokens, window = window, bytes = bytes } end
  return node
end
