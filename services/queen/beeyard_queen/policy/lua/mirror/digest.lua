-- The digest, which proves a mirror equal to the queen's world: for each kind, how many records there are and the sum of
-- their hashes, so that no order matters. `deltas.py` makes the same text of rows.

local M = ...

local ipairs, next, tostring = ipairs, next, tostring
local concat, sort = table.concat, table.sort
local format, repeated, unpack_string = string.format, string.rep, string.unpack
local mathtype = math.type

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
    "estimated_duration_ms", "cost_units", "type", "session_turn", "is_next", "geo_lat", "geo_lon", "engine", "min_context_tokens",
    "min_compute_capability", "quantizations", "pin_pool_id", "prefer_pool_ids", "avoid_pool_ids", "min_vram_bytes",
    "extensions",
  },
  worker = {
    "id", "pool_id", "status", "model_ref", "engine", "slots_total", "slots_free", "vram_free", "kv_free_tokens",
    "load", "tokens_per_s", "cost_per_token", "geo_lat", "geo_lon", "capability", "started_at", "last_used_at",
    "gpu_ids_csv", "jobs_served", "context_tokens", "quantization",
    "prefill_speedup", "resident_at", "served_class", "extensions",
  },
  running = { "job_id", "worker_id", "tenant_id", "priority", "kv_tokens", "started_at", "is_stopping", "is_kept" },
  pool = { "id", "status", "last_report_ms" },
  gpu = {
    "pool_id", "id", "name", "vram_total", "vram_allocated", "vram_free", "utilization", "temperature_c", "power_w",
    "compute_capability",
  },
  tenant = {
    "id", "quota_vram", "quota_used", "quota_jobs", "jobs_running", "tokens_served", "tokens_per_minute", "weight",
  },
  model = { "ref", "family", "vram_required", "size_bytes", "context", "quantization", "pool_ids" },
  history = {
    "model_ref", "device", "mean_ms", "p95_ms", "n", "p50_ms", "urgent_slots", "urgent_slots_next",
  },
}

local tally
local function count(kind, ...)
  local entry = tally[kind]
  if not entry then
    entry = { 0, 0 }
    tally[kind] = entry
  end
  entry[1], entry[2] = entry[1] + 1, entry[2] + hash(concat({ kind, ... }, "\31"))
end

local function count_record(kind, raw)
  local parts = {}
  for at, name in ipairs(FIELDS[kind]) do parts[at] = canonical(raw[name]) end
  count(kind, concat(parts, "\31"))
end

local function count_records(kind, nodes)
  for _, node in next, nodes do count_record(kind, node.raw) end
end

local function count_map(kind, values)
  for name, value in next, values do count(kind, canonical(name), canonical(value)) end
end

local function count_jobs()
  count_records("job", M.jobs)
  for id, node in next, M.jobs do
    for name, value in next, node.raw.label_values or {} do count("label", id, name, canonical(value)) end
  end
end

local function count_fleet()
  count_records("worker", M.workers)
  for id, node in next, M.workers do
    for prompt, tokens in next, node.prefixes or {} do count("prefix", id, prompt, canonical(tokens)) end
  end
  for _, pool in ipairs(M.pool_list) do
    if pool.told then count_record("pool", pool.raw) end
    count_records("gpu", pool.gpu_list)
  end
end

function M.digest()
  tally = {}
  count_jobs()
  count_fleet()
  count_records("running", M.runs)
  count_records("tenant", M.tenants)
  count_records("model", M.models)
  for _, devices in next, M.histories do count_records("history", devices) end
  count_map("alias", M.aliases)
  count_map("metric", M.metrics)
  count_map("config", M.config_values)
  local parts = {}
  for kind, entry in next, tally do parts[#parts + 1] = format("%s:%d:%016x", kind, entry[1], entry[2]) end
  sort(parts)
  return concat(parts, " ")
end
