-- Pools.

local M, V, H, K = ...

local ipairs, type = ipairs, type
local text, amount, predicate, number_or = K.text, K.amount, K.predicate, K.number_or

local function pool_node(value, number, name)
  if type(value) == "table" then value = value.id end
  return M.pools[text(value, number, name)]
end
K.pool_node = pool_node

function H.get_pool(id)
  local node = M.pools[text(id, 1, "get_pool")]
  return node and V.pool(node)
end

function H.filter_pools(wanted)
  local fits, found = predicate(wanted, 1, "filter_pools"), {}
  for _, pool in ipairs(V.pools()) do
    if fits(pool) then found[#found + 1] = pool end
  end
  return found
end

-- A report older than this makes a pool stale, unless `config.pool_stale_ms` says otherwise.
local POOL_STALE_MS = 5000

local function healthy(node)
  local raw = node.raw
  if raw.status ~= "healthy" and raw.status ~= "ready" and raw.status ~= "online" then return false end
  return M.now - raw.last_report_ms <= number_or(M.config_values.pool_stale_ms, POOL_STALE_MS)
end

function H.is_pool_healthy(id)
  local node = pool_node(id, 1, "is_pool_healthy")
  return node ~= nil and healthy(node)
end

-- Healthy pools where one GPU, or one worker of a pool without GPUs, has so much VRAM free; by id.
function H.find_pools_with_capacity(bytes)
  local wanted, found = amount(bytes, 1, "find_pools_with_capacity"), {}
  if not wanted then return found end
  for _, node in ipairs(M.pool_list) do
    local fits = false
    for _, gpu in ipairs(node.gpu_list) do fits = fits or gpu.raw.vram_free >= wanted end
    if #node.gpu_list == 0 then fits = M.best(nil, node.id, "vram", wanted) ~= nil end
    if fits and healthy(node) then found[#found + 1] = V.pool(node) end
  end
  return found
end

local function vram_use(node)
  local allocated, total = 0, 0
  for _, gpu in ipairs(node.gpu_list) do
    allocated, total = allocated + gpu.raw.vram_allocated, total + gpu.raw.vram_total
  end
  return allocated, total
end
K.vram_use = vram_use

-- Allocated VRAM over all VRAM; for a pool without GPUs, busy slots over all slots.
function H.get_pool_utilization(id)
  local node = pool_node(id, 1, "get_pool_utilization")
  if not node then return nil end
  local used, total = vram_use(node)
  if total == 0 then
    for _, worker in ipairs(M.pool_scopes[node.id] and M.pool_scopes[node.id].members or {}) do
      used, total = used + worker.raw.slots_total - worker.raw.slots_free, total + worker.raw.slots_total
    end
  end
  return total > 0 and used / total or 0
end
