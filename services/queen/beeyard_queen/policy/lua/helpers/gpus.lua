-- GPUs.

local M, V, H, K = ...

local ipairs, type = ipairs, type
local sort = table.sort
local text, amount, bad, number_or = K.text, K.amount, K.bad, K.number_or

-- A GPU record; or one by (pool_id, gpu_id); or by its id alone, in the first pool that has it.
local function gpu_of(gpu, id, name)
  if type(gpu) == "table" then return gpu end
  if id ~= nil then
    local node = M.find_gpu(text(gpu, 1, name), id)
    return node and V.gpu(node)
  end
  if type(gpu) ~= "string" and type(gpu) ~= "number" then bad(1, name, "GPU or its id", gpu) end
  for _, pool in ipairs(M.pool_list) do
    local node = M.find_gpu(pool.id, gpu)
    if node then return V.gpu(node) end
  end
  return nil
end

function H.get_gpu(pool_id, gpu_id)
  text(pool_id, 1, "get_gpu")
  if type(gpu_id) ~= "string" and type(gpu_id) ~= "number" then bad(2, "get_gpu", "id", gpu_id) end
  local node = M.find_gpu(pool_id, gpu_id)
  return node and V.gpu(node)
end

-- All GPUs with so much VRAM free, the freest first.
function H.find_gpus_with_vram(bytes)
  local wanted, found = amount(bytes, 1, "find_gpus_with_vram"), {}
  if not wanted then return found end
  for _, pool in ipairs(M.pool_list) do
    for _, node in ipairs(pool.gpu_list) do
      if node.raw.vram_free >= wanted then found[#found + 1] = node end
    end
  end
  sort(found, function(a, b)
    if a.raw.vram_free ~= b.raw.vram_free then return a.raw.vram_free > b.raw.vram_free end
    if a.pool ~= b.pool then return a.pool < b.pool end
    return a.key < b.key
  end)
  for at, node in ipairs(found) do found[at] = V.gpu(node) end
  return found
end

local function gpu_field(name, field)
  H[name] = function(gpu, id)
    local found = gpu_of(gpu, id, name)
    return found and found[field]
  end
end
gpu_field("gpu_vram_total", "vram_total")
gpu_field("gpu_vram_free", "vram_free")
gpu_field("gpu_vram_allocated", "vram_allocated")
gpu_field("gpu_device_name", "name")

-- Whether a model could ever be loaded on a GPU.
function H.check_gpu_compatibility(gpu, model_ref)
  local found = gpu_of(gpu, nil, "check_gpu_compatibility")
  local model = M.models[M.resolve(text(model_ref, 2, "check_gpu_compatibility"))]
  if not found then return false, "gpu_unknown" end
  if not model then return false, "model_unknown" end
  if number_or(found.vram_total, 0) < model.raw.vram_required then return false, "insufficient_vram" end
  return true
end

-- Mean decode speed that workers of a model measured on GPUs of this name; of the model at all, if none did; else 0.
function H.estimate_performance(model_ref, gpu)
  local model = M.resolve(text(model_ref, 1, "estimate_performance"))
  local found, scope = gpu_of(gpu, nil, "estimate_performance"), M.scope_of(model)
  local alike, alike_n, all, all_n = 0, 0, 0, 0
  for _, node in ipairs(scope and scope.members or {}) do
    local worker = node.raw
    if worker.tokens_per_s > 0 then
      all, all_n = all + worker.tokens_per_s, all_n + 1
      local on = M.find_gpu(worker.pool_id, M.csv(worker.gpu_ids_csv)[1])
      if found and on and on.raw.name == found.name then
        alike, alike_n = alike + worker.tokens_per_s, alike_n + 1
      end
    end
  end
  if alike_n > 0 then return alike / alike_n end
  return all_n > 0 and all / all_n or 0
end
