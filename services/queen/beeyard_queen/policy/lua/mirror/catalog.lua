-- Models and their aliases, figures, settings, and what was measured of jobs that ended.

local M = ...

local gmatch = string.gmatch

local models, aliases, metrics, config, history = {}, {}, {}, {}, {}
M.models, M.aliases, M.metrics, M.config_values, M.histories = models, aliases, metrics, config, history

function M.model(ref, family, vram_required, size_bytes, context, quantization, pool_ids)
  models[ref] = {
    raw = {
      id = ref, ref = ref, family = family or "", vram_required = vram_required or 0, size_bytes = size_bytes or 0,
      context = context or 0, quantization = quantization or "", pool_ids = pool_ids or "",
    },
  }
  M.catalog_changed, M.room_version = true, M.room_version + 1
end

function M.model_gone(ref)
  models[ref] = nil
  M.catalog_changed, M.room_version = true, M.room_version + 1
end

-- The setters below forget what is set to nil.
function M.alias(name, ref)
  aliases[name], M.room_version = ref, M.room_version + 1
end

function M.metric(name, value)
  metrics[name] = value
end

function M.config(name, value)
  config[name] = value
end

-- What jobs of a model took on a device, from those that ended.
function M.history(model_ref, device, mean_ms, p95_ms, n, p50_ms, urgent_slots, urgent_slots_next)
  local devices = history[model_ref]
  if not devices then
    devices = {}
    history[model_ref] = devices
  end
  devices[device] = n and n > 0
      and {
        raw = {
          model_ref = model_ref, device = device, mean_ms = mean_ms, p95_ms = p95_ms, n = n, p50_ms = p50_ms or 0,
          urgent_slots = urgent_slots, urgent_slots_next = urgent_slots_next,
        },
      }
    or nil
end

-- A model's own name for an alias or name; what nobody knows is returned as it is.
function M.resolve(name) return aliases[name] or name end

function M.csv(text)
  local list = {}
  for part in gmatch(text, "[^,]+") do list[#list + 1] = part end
  return list
end
