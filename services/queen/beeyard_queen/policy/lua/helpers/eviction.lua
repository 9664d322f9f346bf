-- Eviction: only workers that hold no job are ever named.

local M, V, H, K = ...

local ipairs, next, type = ipairs, next, type
local floor, sort = math.floor, table.sort
local optional_text, number_or, worker_or_nil = K.optional_text, K.number_or, K.worker_or_nil
local longer_unused, pool_node, vram_use = K.longer_unused, K.pool_node, K.vram_use

local function evictable(name, pool, order)
  if type(pool) == "table" then pool = pool.id end
  return worker_or_nil(M.first(nil, optional_text(pool, 1, name), order))
end

function H.find_worker_to_evict_lru(pool_id) return evictable("find_worker_to_evict_lru", pool_id, "lru") end

function H.find_worker_to_evict_lfu(pool_id) return evictable("find_worker_to_evict_lfu", pool_id, "lfu") end

-- Idle workers, the longest unused first.
function H.idle_workers(pool_id)
  local scope, found = M.scope_of(nil, optional_text(pool_id, 1, "idle_workers")), {}
  for _, node in ipairs(scope and scope.members or {}) do
    if node.idle then found[#found + 1] = V.worker(node) end
  end
  sort(found, longer_unused)
  return V.own_workers(found)
end

-- Part of a pool's VRAM above which something should go, unless `config.evict_above` says otherwise.
local EVICT_ABOVE = 0.9

-- Whether a pool's VRAM is fuller than it should be, and by how many bytes.
function H.should_evict(pool)
  local node = pool_node(pool, 1, "should_evict")
  if not node then return false, 0 end
  local allocated, total = vram_use(node)
  local exceeded = allocated - floor(total * number_or(M.config_values.evict_above, EVICT_ABOVE))
  if exceeded > 0 and total > 0 then return true, exceeded end
  return false, 0
end

-- The model of a pool for which no job waits and all of whose workers idle, the longest unused; nil if there is none.
function H.find_model_to_evict(pool)
  local node = pool_node(pool, 1, "find_model_to_evict")
  local scope = node and M.pool_scopes[node.id]
  local used, busy = {}, {}
  for _, worker in ipairs(scope and scope.members or {}) do
    local model = worker.model
    if not worker.idle then busy[model] = true end
    if not used[model] or worker.used > used[model] then used[model] = worker.used end
  end
  local best
  for model, at in next, used do
    if not busy[model] and not M.is_wanted(model) and (not best or at < used[best] or at == used[best] and model < best) then
      best = model
    end
  end
  return best
end
