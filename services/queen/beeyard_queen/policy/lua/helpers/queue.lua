-- The queue by its indexes: what a policy looks at instead of walking ten thousand jobs.

local M, V, H, K = ...

local ipairs, next, type = ipairs, next, type
local huge, sort = math.huge, table.sort
local text, optional_text, callable, bad, rank_of = K.text, K.optional_text, K.callable, K.bad, K.rank_of
local job_view = V.job

local function views_of(nodes)
  for at, node in ipairs(nodes) do nodes[at] = job_view(node) end
  return nodes
end

-- The job of each tenant and need that waits for a model in a class and whose turn it is of its tenant's, oldest first.
function H.queue_heads(priority, model_ref)
  local rank = rank_of(priority, 1, "queue_heads")
  return views_of(M.heads(rank, M.resolve(text(model_ref, 2, "queue_heads"))))
end

-- The jobs that have waited for too long: the oldest of each model that has one, oldest first.
local NOBODY = {}
function H.overdue_jobs()
  local nodes = M.overdue()
  return nodes and views_of(nodes) or V.own(NOBODY)
end

-- The oldest job of a class; of a model and tenant in it, if given.
function H.next_job(priority, model_ref, tenant_id)
  local rank = rank_of(priority, 1, "next_job")
  if optional_text(model_ref, 2, "next_job") == nil then tenant_id = nil end
  local node = M.head(rank, model_ref, optional_text(tenant_id, 3, "next_job"))
  return node and job_view(node)
end

-- The oldest job for a model in a class whose tenant's quotas leave room for one more.
function H.next_to_start(priority, model_ref)
  local node = M.front(rank_of(priority, 1, "next_to_start"), text(model_ref, 2, "next_to_start"))
  return node and job_view(node)
end

-- Models of a class for which a worker is open and a job waits whose tenant's quotas leave room for one more, in the
-- order of their names.
function H.dispatchable_models(priority)
  return V.own(M.dispatchable(rank_of(priority, 1, "dispatchable_models")))
end

-- Tenants whose jobs wait for a model in a class, in the order of their ids.
function H.waiting_tenants(priority, model_ref)
  return M.tenants_waiting(rank_of(priority, 1, "waiting_tenants"), text(model_ref, 2, "waiting_tenants"))
end

-- Models of a class for which jobs wait and no worker is there or loading, in the order of their names.
function H.unserved_models(priority) return V.own(M.unserved(rank_of(priority, 1, "unserved_models"))) end

-- Walk the tenants with waiting jobs, of one or two classes if given, whose turn it is first and whose quotas leave room
-- for one more: for tenant_id, share, running in tenants_in_turn("normal") do. `share` is the tokens served and
-- `running` the jobs running, each for the tenant's weight.
function H.tenants_in_turn(priority, or_priority)
  local one = priority ~= nil and M.classes[rank_of(priority, 1, "tenants_in_turn")].by_tenant or M.waiting_by_tenant
  local other = or_priority ~= nil and M.classes[rank_of(or_priority, 2, "tenants_in_turn")].by_tenant or one
  local at, list = 0, M.turn_list
  return function()
    local turn
    repeat
      at = at + 1
      turn = list[at]
    until not turn or one[turn.id] or other[turn.id]
    if turn then return turn.id, turn.share, turn.running end
    return nil
  end
end

-- What competes: for each class and model, the lanes of its tenants and until when a job must have been queued.
local function competitors(contest)
  local found = {}
  if type(contest) ~= "table" then bad(1, "jobs_in_turn", "list of { class, models }", contest) end
  for _, each in ipairs(contest) do
    local groups, before = M.classes[rank_of(each.class, 1, "jobs_in_turn")].models, each.queued_before or huge
    for _, model in ipairs(each.models) do
      local group = groups[model]
      if group then found[#found + 1] = { lanes = group.by_slot, before = before } end
    end
  end
  return found
end

local function nearer(a, b)
  if a.turns_off ~= b.turns_off then return a.turns_off < b.turns_off end
  return a.seq < b.seq
end

-- Of the jobs whose turn it is in the lanes of tenants with equal shares the oldest. Most often it can start and the
-- others are not looked at.
local function oldest_of(entered)
  local oldest, before
  for at = 1, #entered, 2 do
    local node, limit = entered[at].first, entered[at + 1]
    if not oldest or node.seq < oldest.seq then oldest, before = node, limit end
  end
  if oldest.raw.queued_at <= before then return oldest end
  return nil
end

-- The jobs of each of their needs whose turn it is, by how far their turn is from their lane's first, then the oldest
-- first: a small one may fit where a large one does not.
local function heads_of(entered, but)
  local heads, n = {}, 0
  for at = 1, #entered, 2 do
    local first, before = entered[at].first.turn, entered[at + 1]
    for _, need in next, entered[at].needs do
      local node = need[1]
      if node ~= but and node.raw.queued_at <= before then
        n = n + 1
        heads[n], node.turns_off = node, node.turn - first
      end
    end
  end
  if n > 1 then sort(heads, nearer) end
  return heads
end

-- How many turns to pass by until the next with a lane. Most often one model has an open worker, and few of the first
-- tenants wait for it.
local function passed(slots, at, lanes)
  local slot
  repeat
    at = at + 1
    slot = slots[at]
  until not slot or lanes[slot]
  return at - 1
end

-- Walk the jobs that could start next, in the order of fair share: for job in jobs_in_turn({ { class = "normal", models
-- = { "llama-7b" }, queued_before = nil } }) do. The tenants in turn, those with equal shares together; of them the
-- job of each need whose session's turn it is.
function H.jobs_in_turn(contest)
  local competing = competitors(contest)
  local only = #competing == 1 and competing[1].lanes
  local at, turns, slots = 0, M.turn_list, M.turn_slots
  local entered, heads, head_at

  -- The lanes of the next tenants that compete and have equal shares, each with its limit; nil if there are none.
  local function enter()
    local lanes, share, running = {}, nil, nil
    while true do
      if only then at = passed(slots, at, only) end
      local slot, turn = slots[at + 1], turns[at + 1]
      if not turn or lanes[1] and (turn.share ~= share or turn.running ~= running) then break end
      at = at + 1
      for number = 1, #competing do
        local each = competing[number]
        local lane = each.lanes[slot]
        if lane then
          lanes[#lanes + 1] = lane
          lanes[#lanes + 1] = each.before
          share, running = turn.share, turn.running
        end
      end
    end
    return lanes[1] and lanes
  end

  return function()
    while true do
      if heads then
        head_at = head_at + 1
        local node = heads[head_at]
        if node then return job_view(node) end
        heads, entered = nil, nil
      end
      if entered then
        heads, head_at = heads_of(entered, entered.oldest), 0
      else
        entered = enter()
        if not entered then return nil end
        local oldest = oldest_of(entered)
        if oldest then
          entered.oldest = oldest
          return job_view(oldest)
        end
      end
    end
  end
end

-- The oldest job of a tenant in a class, of those that wait for one of some models.
function H.oldest_of_tenant(priority, tenant_id, models)
  local rank, best = rank_of(priority, 1, "oldest_of_tenant"), nil
  text(tenant_id, 2, "oldest_of_tenant")
  if type(models) ~= "table" then bad(3, "oldest_of_tenant", "list of models", models) end
  for _, model in ipairs(models) do
    local node = M.head(rank, model, tenant_id)
    if node and (not best or node.seq < best.seq) then best = node end
  end
  return best and job_view(best)
end

-- The job of each need of a tenant that waits for a model in a class and whose turn it is, oldest first.
function H.tenant_heads(priority, model_ref, tenant_id)
  local rank = rank_of(priority, 1, "tenant_heads")
  return views_of(M.heads(rank, text(model_ref, 2, "tenant_heads"), text(tenant_id, 3, "tenant_heads")))
end

local function accepts(node, accept) return accept(job_view(node)) end

-- The job with the earliest deadline that `accept(job)` holds for, of a model in a class; without a model, of all
-- dispatchable ones. Asked are the earliest of each need of each tenant whose quotas leave room for one more.
function H.earliest_deadline(priority, model_ref, accept)
  local rank, node = rank_of(priority, 1, "earliest_deadline"), nil
  local fits = accept ~= nil and callable(accept, 3, "earliest_deadline") and accepts or nil
  if optional_text(model_ref, 2, "earliest_deadline") == nil then
    node = M.earliest_of_class(rank, fits, accept)
  else
    node = M.earliest_deadline(rank, model_ref, fits, accept)
  end
  return node and job_view(node)
end

function H.count_waiting(priority, model_ref)
  return M.waiting(rank_of(priority, 1, "count_waiting"), optional_text(model_ref, 2, "count_waiting"))
end
