-- Lists of workers, which can be asked on and on: `context.workers:with_model(m):idle():least_loaded()`.

local M, V, _, K = ...

local ipairs, type = ipairs, type
local concat, sort = table.concat, table.sort
local text, amount, callable, predicate, job_of = K.text, K.amount, K.callable, K.predicate, K.job_of
local number_or, worker_or_nil, is_open, cached_tokens = K.number_or, K.worker_or_nil, K.is_open, K.cached_tokens
local longer_unused, scope_turn, take_turn = K.longer_unused, K.scope_turn, K.take_turn

local L = V.worker_methods

local function keep(list, fits)
  local kept = {}
  for _, worker in ipairs(list) do
    if fits(worker) then kept[#kept + 1] = worker end
  end
  return V.own_workers(kept)
end

function L.filter(list, wanted) return keep(list, predicate(wanted, 1, "filter")) end

function L.with_model(list, model_ref)
  local model = M.resolve(text(model_ref, 1, "with_model"))
  local is_scope, of, pool = V.scope_of(list)
  if is_scope and (of == nil or of == model) then return V.workers(M.scope_of(model, pool), model, pool) end
  return keep(list, function(worker) return worker.model_ref == model end)
end

function L.in_pool(list, pool_id)
  text(pool_id, 1, "in_pool")
  return keep(list, function(worker) return worker.pool_id == pool_id end)
end

local function is_idle(worker)
  return is_open(worker) and worker.slots_free >= number_or(worker.slots_total, worker.slots_free)
end

function L.idle(list) return keep(list, is_idle) end

function L.ready(list) return keep(list, is_open) end

function L.with_capacity(list, bytes)
  local least = amount(bytes, 1, "with_capacity")
  return keep(list, function(worker) return least ~= nil and worker.vram_free >= least end)
end

local function least(list, before)
  local best
  for _, worker in ipairs(list) do
    if is_open(worker) and (not best or before(worker, best)) then best = worker end
  end
  return best
end

local function lighter(a, b)
  if a.load ~= b.load then return a.load < b.load end
  if a.vram_free ~= b.vram_free then return a.vram_free > b.vram_free end
  return a.id < b.id
end

local function roomier(a, b)
  if a.vram_free ~= b.vram_free then return a.vram_free > b.vram_free end
  if a.load ~= b.load then return a.load < b.load end
  return a.id < b.id
end

function L.least_loaded(list)
  local is_scope, model, pool = V.scope_of(list)
  if is_scope then return worker_or_nil(M.best(model, pool, "load")) end
  return least(list, lighter)
end

function L.most_vram_free(list)
  local is_scope, model, pool = V.scope_of(list)
  if is_scope then return worker_or_nil(M.best(model, pool, "vram")) end
  return least(list, roomier)
end

function L.round_robin(list)
  local is_scope, model, pool = V.scope_of(list)
  if is_scope then return scope_turn(model, pool) end
  local open, ids = {}, { "list" }
  for _, worker in ipairs(list) do
    if is_open(worker) then
      open[#open + 1] = worker
      ids[#ids + 1] = worker.id
    end
  end
  if #open == 0 then return nil end
  sort(open, longer_unused)
  return take_turn(concat(ids, "\31"), function() return open[1] end, function() return open end)
end

-- The worker with the least (sign 1) or most (sign -1) key; one without a key is passed over.
local function extreme(list, key, sign, name)
  if type(key) == "string" then
    local field = key
    key = function(worker) return worker[field] end
  end
  callable(key, 1, name)
  local best, best_key
  for _, worker in ipairs(list) do
    local value = key(worker)
    if type(value) == "number" and value == value then
      value = value * sign
      if not best or value < best_key or value == best_key and worker.id < best.id then
        best, best_key = worker, value
      end
    end
  end
  return best
end

function L.min_by(list, key) return (extreme(list, key, 1, "min_by")) end

function L.max_by(list, key) return (extreme(list, key, -1, "max_by")) end

function L.first(list) return list[1] end

-- The workers that hold part of a job's prompt in their cache, those with the most of it first.
function L.prefix_overlap(list, job)
  local found = job_of(job, 1, "prefix_overlap")
  if not found then return V.own_workers({}) end
  local held = keep(list, function(worker) return cached_tokens(found, worker) > 0 end)
  sort(held, function(a, b)
    local left, right = cached_tokens(found, a), cached_tokens(found, b)
    if left ~= right then return left > right end
    return a.id < b.id
  end)
  return held
end
