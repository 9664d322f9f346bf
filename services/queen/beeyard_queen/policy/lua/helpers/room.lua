-- Room for models that no worker serves: a GPU with enough free memory, or a worker that could leave.

local M, V, H, K = ...

local huge = math.huge
local job_of, number_or, worker_or_nil = K.job_of, K.number_or, K.worker_or_nil
local capability_number, lists = K.capability_number, K.lists

-- The catalogue's entry of a job's model, if a worker of it could take the job at all.
local function loadable(job)
  local node = M.models[M.resolve(job.model_ref)]
  if not node then return nil end
  local context = number_or(job.min_context_tokens, 0)
  if context > 0 and node.raw.context < context then return nil end
  if (job.quantizations or "") ~= "" and not lists(job.quantizations, node.raw.quantization) then return nil end
  -- What a worker can do beyond generating is known once it runs.
  if (job.extensions or "") ~= "" then return nil end
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

-- Until when a worker that was loaded just now keeps its place against a job: two models that want one device by turns
-- would else throw each other out for every job. 0: it does not.
local function keeps_until(raw, job)
  if raw.resident_at == 0 then return 0 end
  local until_ms = raw.resident_at + number_or(M.config_values.residence_ms, 0)
  if M.now >= until_ms then return 0 end
  -- What it served since counts; one that served nobody yet was loaded for somebody, however urgent.
  if (M.RANK[job.priority] or huge) < (M.RANK[raw.served_class] or 1) then return 0 end
  return until_ms
end

-- When the first of the workers that keep their places in the present search is free to leave.
local first_free_ms

-- Whether a worker for a job could be started in the place of another one.
local function frees_room(node, job)
  local ids = M.csv(node.raw.gpu_ids_csv)
  local gpu = ids[1] and M.find_gpu(node.pool, ids[1])
  if not gpu then return false end
  local held = M.models[node.model]
  return room_on(gpu, loadable(job), job, held and held.raw.vram_required // #ids or 0)
end

local function makes_room(node, job)
  if M.is_wanted(node.model) then return false end
  local until_ms = keeps_until(node.raw, job)
  if until_ms > 0 then
    if until_ms < first_free_ms then first_free_ms = until_ms end
    return false
  end
  return frees_room(node, job)
end

-- Whether there will be room once one of the workers that leave has ended: nobody else has to go for the job.
local function is_room_coming(job)
  for node in next, M.leaving do
    if frees_room(node, job) then return true end
  end
  return false
end

-- Whether a search for a leaver was in vain that would find no more now, nor for a less urgent job.
local function is_vain(node, rank)
  return node.no_leaver_at == M.room_version and M.now < node.no_leaver_until and rank >= node.no_leaver_rank
end

-- The idle worker that nobody waits for, that has been there for its residence, and without which a worker for a job could
-- be started: of several the longest unused, or with `config.eviction` "lfu" the one that served the fewest jobs.
function H.find_worker_to_make_room(job)
  local found = job_of(job, 1, "find_worker_to_make_room")
  local node = found and M.models[M.resolve(found.model_ref)]
  if not node or not loadable(found) then return nil end
  local rank, is_plain = M.RANK[found.priority] or huge, K.plain_node(found)
  if is_plain and is_vain(node, rank) or is_room_coming(found) then return nil end
  first_free_ms = huge
  local worker = M.first(nil, nil, M.config_values.eviction == "lfu" and "lfu" or "lru", makes_room, found)
  if not worker and is_plain then
    node.no_leaver_at, node.no_leaver_until, node.no_leaver_rank = M.room_version, first_free_ms, rank
  end
  return worker_or_nil(worker)
end
