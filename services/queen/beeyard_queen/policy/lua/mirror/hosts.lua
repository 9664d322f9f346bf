-- Pools, each one host, and their GPUs.

local M = ...

local ipairs, format, tostring = ipairs, string.format, tostring
local heaps, lists, pool_scopes, POOL_CLOSED = M.heaps, M.lists, M.pool_scopes, M.POOL_CLOSED

-- All GPUs, the one with the most free memory first.
local roomiest = heaps.new(function(a, b)
  if a.raw.vram_free ~= b.raw.vram_free then return a.raw.vram_free > b.raw.vram_free end
  if a.pool ~= b.pool then return a.pool < b.pool end
  return a.key < b.key
end)
M.roomiest = roomiest

local pools, pool_list = {}, {}
M.pools, M.pool_list = pools, pool_list

local function note_change() M.room_version = M.room_version + 1 end

function M.is_pool_closed(id)
  local pool = pools[id]
  return pool ~= nil and POOL_CLOSED[pool.raw.status] == true
end

-- The node of a pool; a pool that only its workers have named so far has no status.
function M.pool_of(id)
  local node = pools[id]
  if not node then
    node = { id = id, raw = { id = id, status = "", last_report_ms = 0 }, gpus = {}, gpu_list = {} }
    pools[id] = node
    lists.insert(pool_list, "id", node)
    M.pool_views = nil
    M.pool_made(node)
  end
  return node
end

function M.pool(id, status, last_report_ms)
  local node = M.pool_of(id)
  local was_closed = POOL_CLOSED[node.raw.status]
  node.raw.status, node.raw.last_report_ms, node.told = status or "", last_report_ms or 0, true
  if was_closed ~= POOL_CLOSED[node.raw.status] then
    M.refile_pool(id)
    note_change()
  end
end

-- Forget a pool's status and GPUs; its workers stay until they are told gone.
function M.pool_gone(id)
  local node = pools[id]
  if not node then return end
  M.pool(id, "", 0)
  for _, gpu in ipairs(node.gpu_list) do heaps.remove(roomiest, gpu) end
  node.told, node.gpus, node.gpu_list, node.gpu_views = nil, {}, {}, nil
  if not pool_scopes[id] then
    pools[id], M.pool_views = nil, nil
    lists.remove(pool_list, "id", node)
  end
  note_change()
end

local function gpu_of(pool, key, id)
  local node = pool.gpus[key]
  if not node then
    node = { key = key, id = id, pool = pool.id }
    pool.gpus[key] = node
    lists.insert(pool.gpu_list, "key", node)
  end
  return node
end

-- GPUs are ordered by id as text, since ids are numbers in one deployment and UUIDs in the next.
function M.gpu(
  pool_id, id, name, vram_total, vram_allocated, vram_free, utilization, temperature_c, power_w, compute_capability)
  local pool = M.pool_of(pool_id)
  local node = gpu_of(pool, format("%20s", tostring(id)), id)
  pool.gpu_views, node.view = nil, nil
  node.raw = {
    id = id, pool_id = pool_id, name = name or "", vram_total = vram_total or 0, vram_allocated = vram_allocated or 0,
    vram_free = vram_free or 0, utilization = utilization, temperature_c = temperature_c, power_w = power_w,
    compute_capability = compute_capability or "",
  }
  if roomiest.pos[node] then heaps.fix(roomiest, node) else heaps.add(roomiest, node) end
  note_change()
end

function M.find_gpu(pool_id, id)
  local pool = pools[pool_id]
  return pool and pool.gpus[format("%20s", tostring(id))]
end

function M.gpu_gone(pool_id, id)
  local pool, node = pools[pool_id], M.find_gpu(pool_id, id)
  if not node then return end
  pool.gpus[node.key], pool.gpu_views = nil, nil
  lists.remove(pool.gpu_list, "key", node)
  heaps.remove(roomiest, node)
  note_change()
end
