-- Models.

local M, V, H, K = ...

local ipairs, next = ipairs, next
local sort = table.sort
local text, predicate = K.text, K.predicate

local function is_known(ref) return M.models[ref] ~= nil or M.scope_of(ref) ~= nil end

function H.resolve_model(name)
  local ref = M.resolve(text(name, 1, "resolve_model"))
  return (M.aliases[name] or is_known(ref)) and ref or nil
end

function H.get_model(name)
  local node = M.models[M.resolve(text(name, 1, "get_model"))]
  return node and V.model(node)
end

-- Whether the catalog or any worker knows the model.
function H.model_exists(name) return is_known(M.resolve(text(name, 1, "model_exists"))) end

local function models_where(fits)
  local refs, found = {}, {}
  for ref in next, M.models do refs[#refs + 1] = ref end
  sort(refs)
  for _, ref in ipairs(refs) do
    local model = V.model(M.models[ref])
    if fits(model) then found[#found + 1] = model end
  end
  return found
end

function H.filter_models(wanted) return models_where(predicate(wanted, 1, "filter_models")) end

function H.find_models_by_family(family)
  text(family, 1, "find_models_by_family")
  return models_where(function(model) return model.family == family end)
end

function H.get_model_vram(name)
  local node = M.models[M.resolve(text(name, 1, "get_model_vram"))]
  return node and node.raw.vram_required
end
