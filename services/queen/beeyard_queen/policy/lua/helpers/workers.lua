-- Workers, found by an order.

local M, V, H, K = ...

local ipairs, type = ipairs, type
local sort = table.sort
local text, optional_text, amount, predicate, worker_or_nil = K.text, K.optional_text, K.amount, K.predicate, K.worker_or_nil

function H.get_all_workers() return V.workers(M.all_scope) end

local function find(name, model_ref, pool_id, bytes, order)
  text(model_ref, 1, name)
  if type(pool_id) == "number" then pool_id, bytes = nil, pool_id end
  optional_text(pool_id, 2, name)
  if bytes ~= nil then
    bytes = amount(bytes, 3, name)
    if not bytes then return nil end
  end
  return worker_or_nil(M.best(M.resolve(model_ref), pool_id, order, bytes))
end

function H.find_worker(model_ref, pool_id, bytes) return find("find_worker", model_ref, pool_id, bytes, "load") end

function H.find_least_loaded_worker(model_ref, pool_id, bytes)
  return find("find_least_loaded_worker", model_ref, pool_id, bytes, "load")
end

function H.find_most_vram_free_worker(model_ref, pool_id, bytes)
  return find("find_most_vram_free_worker", model_ref, pool_id, bytes, "vram")
end

H.find_worker_most_vram_free = H.find_most_vram_free_worker

function H.find_ready_worker(model_ref, pool_id, bytes)
  return find("find_ready_worker", model_ref, pool_id, bytes, "id")
end

function H.find_cheapest_worker(model_ref, pool_id, bytes)
  return find("find_cheapest_worker", model_ref, pool_id, bytes, "cost")
end

function H.find_fastest_worker(model_ref, pool_id, bytes)
  return find("find_fastest_worker", model_ref, pool_id, bytes, "speed")
end

function H.find_workers_by_model(model_ref)
  local model = M.resolve(text(model_ref, 1, "find_workers_by_model"))
  return V.workers(M.scope_of(model), model)
end

-- The longest unused comes first, which needs no memory between decisions; within one, each call takes the next.
local function take_turn(key, first, all)
  local turn = M.turns[key]
  if not turn then
    local node = first()
    if node then M.turns[key] = { taken = 1 } end
    return node
  end
  turn.list = turn.list or all()
  local node = turn.list[turn.taken % #turn.list + 1]
  turn.taken = turn.taken + 1
  return node
end

K.take_turn = take_turn

local function longer_unused(a, b)
  if a.last_used_at ~= b.last_used_at then return a.last_used_at < b.last_used_at end
  return a.id < b.id
end
K.longer_unused = longer_unused

local function scope_turn(model, pool)
  local function first() return worker_or_nil(M.first(model, pool, "turn")) end
  local function all()
    local open = {}
    for _, node in ipairs(M.scope_of(model, pool).members) do
      if node.open then open[#open + 1] = V.worker(node) end
    end
    sort(open, longer_unused)
    return open
  end
  return take_turn("scope\31" .. (model or "") .. "\31" .. (pool or ""), first, all)
end
K.scope_turn = scope_turn

function H.find_worker_round_robin(model_ref, pool_id)
  text(model_ref, 1, "find_worker_round_robin")
  return scope_turn(M.resolve(model_ref), optional_text(pool_id, 2, "find_worker_round_robin"))
end

function H.filter_workers(wanted)
  local fits, found = predicate(wanted, 1, "filter_workers"), {}
  for _, worker in ipairs(V.workers(M.all_scope)) do
    if fits(worker) then found[#found + 1] = worker end
  end
  return V.own_workers(found)
end
