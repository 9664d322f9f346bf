-- Room for models that no worker serves: a GPU with enough free memory, or a worker that could leave.

local M, V, H, K = ...

local job_of, number_or, worker_or_nil = K.job_of, K.number_or, K.worker_or_nil
local capability_number, lists = K.capability_number, K.lists

-- The catalogue's entry of a job's model, if a worker of it could take the job at all.
local function loadable(job)
  local node = M.models[M.resolve(job.model_ref)]
  if not node then return nil end
  local context = number_or(job.min_context_tokens, 0)
  if context > 0 and node.raw.context < context then return nil end
  if (job.quantizations or "") ~= "" and not lists(job.quantizations, node.raw.quantization) then return nil end
  return node.raw
end

-- Whether a model could be loaded on a GPU for a job, if so many bytes more were free.
local function room_on(gpu, model, job, bytes_more)
  local raw = gpu.raw
  if raw.vram_free + bytes_more < model.vram_required then return false end
  if M.is_pool_closed(gpu.pool) then return false end
  if (job.pin_pool_id or "") ~= "" and job.pin_pool_id ~= gpu.pool then return false end
  if (job.avoid_pool_ids or "") ~= "" and lists(job.avoid_pool_ids, gpu.pool) then return false end
  if model.pool_ids ~= "" and not lists(model.pool_ids, gpu.pool) then return false end
  if raw.vram_total < number_or(job.min_vram_bytes, 0) then return false end
  local wanted = capability_number(job.min_compute_capability)
  local has = wanted and capability_number(raw.compute_capability)
  return not wanted or (has ~= nil and has >= wanted)
end

local function has_room(gpu, job) return room_on(gpu, loadable(job), job, 0) end

-- Answers for jobs that demand nothing special depend on their model alone: what was in vain is not tried again until
-- room could have come. Returns the catalogue's entry if there is something to find out.
local function untried(job, field)
  local node = M.models[M.resolve(job.model_ref)]
  if not node or not loadable(job) then return nil end
  if node[field] == M.room_version and K.plain_node(job) then return nil end
  return node
end

local function note_vain(job, node, field)
  if K.plain_node(job) then node[field] = M.room_version end
end

-- The GPU with the most free memory on which a worker for a job could be started; nil if there is none.
function H.find_gpu_for_job(job)
  local found = job_of(job, 1, "find_gpu_for_job")
  local node, most = found and untried(found, "no_gpu_at"), M.roomiest[1]
  if not node or not most or most.raw.vram_free < node.raw.vram_required then return nil end
  local gpu = M.heaps.search(M.roomiest, has_room, found)
  if not gpu then note_vain(found, node, "no_gpu_at") end
  return gpu and V.gpu(gpu)
end

local function makes_room(node, job)
  if M.is_wanted(node.model) then return false end
  local ids = M.csv(node.raw.gpu_ids_csv)
  local gpu = ids[1] and M.find_gpu(node.pool, ids[1])
  if not gpu then return false end
  local held = M.models[node.model]
  return room_on(gpu, loadable(job), job, held and held.raw.vram_required // #ids or 0)
end

-- The longest unused idle worker that nobody waits for and without which a worker for a job could be started.
function H.find_worker_to_make_room(job)
  local found = job_of(job, 1, "find_worker_to_make_room")
  local node = found and untried(found, "no_leaver_at")
  if not node then return nil end
  local worker = M.first(nil, nil, "lru", makes_room, found)
  if not worker then note_vain(found, node, "no_leaver_at") end
  return worker_or_nil(worker)
end
