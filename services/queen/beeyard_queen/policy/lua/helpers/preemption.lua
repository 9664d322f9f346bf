-- Preemption: which running job makes way for a more urgent one.

local M, V, H, K = ...

local next, setmetatable = next, setmetatable
local sort = table.sort
local text, job_of, rank_of, unfit = K.text, K.job_of, K.rank_of, K.unfit

-- Whether the waiting job would fit the worker of a running one, were that one gone.
local function fits_after(run, job)
  local node = M.workers[run.raw.worker_id]
  local raw = node.raw
  if M.is_pool_closed(node.pool) then return false end
  local kv = raw.kv_free_tokens
  local freed = { slots_free = raw.slots_free + 1, kv_free_tokens = kv and kv + run.raw.kv_tokens }
  -- Not the mirror's own record, so that it counts as open by its own figures.
  return not unfit(job, setmetatable(freed, { __index = raw }))
end

-- The running job that should make way for a waiting one of its model: the least urgent, then the youngest, of those on
-- whose worker the waiting one would fit; nil if all are as urgent as the waiting one.
function H.find_job_to_preempt(job)
  local found = job_of(job, 1, "find_job_to_preempt")
  local rank, model = found and M.RANK[found.priority], found and M.resolve(found.model_ref)
  local scope = rank and M.model_scopes[model]
  if not scope then return nil end
  -- Why look again at all that runs, before something changed there?
  local node = K.plain_node(found)
  if node and node.no_victim_at == scope.version then return nil end
  local run = M.victim(model, rank, fits_after, found)
  if node and not run then node.no_victim_at = scope.version end
  return run and V.run(run)
end

-- Models for which jobs of a class wait while less urgent ones run and none is stopping, in the order of their names.
-- The running ones are of the class `victims` or below it, if that is given.
function H.models_to_preempt(priority, victims)
  local rank, found = rank_of(priority, 1, "models_to_preempt"), {}
  local above = victims ~= nil and rank_of(victims, 2, "models_to_preempt") - 1 or rank
  if next(M.losable) == nil then return found end
  if above < rank then above = rank end
  local losable, aliases = M.losable, M.aliases
  for model in next, M.classes[rank].models do
    local ref = aliases[model] or model
    if losable[ref] and M.victim(ref, above) then found[#found + 1] = model end
  end
  if #found > 1 then sort(found) end
  return found
end

-- How many jobs of a model were told to stop and have not yet: their slots are about to be free.
function H.count_stopping(model_ref) return M.stopping[M.resolve(text(model_ref, 1, "count_stopping"))] or 0 end
