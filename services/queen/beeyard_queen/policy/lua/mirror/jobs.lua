-- Jobs that wait: a line for each class, and below each class by model, tenant and need (see classes.lua). Heads are
-- what a decision looks at.

local M = ...

local error, ipairs, next, sort, tostring = error, ipairs, next, table.sort, tostring
local heaps, lines, lists, classes, RANK = M.heaps, M.lines, M.lists, M.classes, M.RANK
local line_add, line_drop, line_head = lines.add, lines.drop, lines.head

local jobs, job_count = {}, 0
M.jobs = jobs
-- Counts up with every change of what waits or runs.
M.queue_version = 0
-- Jobs that have waited for too long, by model.
local next_jobs = {}
local waiting_by_tenant = {}
M.waiting_by_tenant = waiting_by_tenant

function M.job_count() return job_count end

local function earlier(a, b)
  if a.deadline ~= b.deadline then return a.deadline < b.deadline end
  return a.seq < b.seq
end

local function due_earlier(a, b) return earlier(a.due[1], b.due[1]) end

local function front_older(a, b) return a.front < b.front end

local function older(a, b) return a.seq < b.seq end

-- The order in a lane, in which sessions take turns.
local function sooner(a, b)
  if a.turn ~= b.turn then return a.turn < b.turn end
  return a.seq < b.seq
end

-- ---------------------------------------------------------------------------------------------------------------------
-- Filing

-- `by_slot`: the lanes by the slots of their tenants' turns. `fronts`: the open ones by their oldest jobs. `due`: those
-- of their lines in which a job has a deadline, by the earliest of each.
local take_group, give_group = lists.spares(function()
  return {
    model = "", line = lines.new(), tenants = {}, by_slot = {}, fronts = heaps.new(front_older),
    due = heaps.new(due_earlier),
  }
end)
local take_lane, give_lane = lists.spares(function() return { line = lines.new(), needs = {} } end)
local take_need, give_need = lists.spares(function() return heaps.new(sooner) end)

local function group_of(class, model)
  local group = class.models[model]
  if not group then
    group = take_group()
    group.model = model
    class.models[model] = group
    M.room_version = M.room_version + 1
  end
  return group
end

local function lane_of(class, group, tenant, seq)
  local lane = group.tenants[tenant]
  if not lane then
    lane = take_lane()
    lane.tenant, lane.class, lane.group, lane.front = tenant, class, group, seq
    group.tenants[tenant] = lane
    M.join_turn(lane)
    -- Where the lane opened, that is known already.
    if group.fronts.n == 0 then M.match(class, group.model) end
  end
  return lane
end

-- Call after a lane's line changed.
local function file_front(lane)
  local front = line_head(lane.line).seq
  if front ~= lane.front then
    lane.front = front
    if lane.turn.open then heaps.fix(lane.group.fronts, lane) end
  end
end

-- Call after a line's earliest deadline changed.
local function file_due(group, lane, need)
  local is_in = group.due.pos[need]
  if need.due.n > 0 and lane.turn.open then
    if is_in then heaps.fix(group.due, need) else heaps.add(group.due, need) end
  elseif is_in then
    heaps.remove(group.due, need)
  end
end

-- `lane.first`: the job of the lane whose turn it is. Call after it left.
local function find_first(lane)
  local first
  for _, need in next, lane.needs do
    local node = need[1]
    if not first or sooner(node, first) then first = node end
  end
  lane.first = first
end

local function file_deadline(node, lane, need)
  need.due = need.due or heaps.new(earlier)
  heaps.add(need.due, node)
  if need.due[1] == node then file_due(lane.group, lane, need) end
end

local function unfile_deadline(node, lane, need)
  local was_first = need.due[1] == node
  if need.due.n == 1 and lane.turn.open then heaps.remove(lane.group.due, need) end
  heaps.remove(need.due, node)
  if was_first and need.due.n > 0 then file_due(lane.group, lane, need) end
end

local function next_list(model)
  local list = next_jobs[model]
  if not list then
    list = {}
    next_jobs[model] = list
  end
  return list
end

local function drop_next(node)
  local list = next_jobs[node.model]
  lists.remove(list, "seq", node)
  if not list[1] then next_jobs[node.model] = nil end
end

local function file_job(node)
  local tenant = node.tenant
  local class = classes[node.rank]
  local group = group_of(class, node.model)
  local lane = lane_of(class, group, tenant, node.seq)
  local need = lane.needs[node.need]
  if not need then
    need = take_need()
    lane.needs[node.need] = need
  end
  node.lane = lane
  line_add(class.line, node)
  line_add(group.line, node)
  line_add(lane.line, node)
  heaps.add(need, node)
  if not lane.first or sooner(node, lane.first) then lane.first = node end
  file_front(lane)
  if node.deadline then file_deadline(node, lane, need) end
  if node.raw.is_next then lists.insert(next_list(node.model), "seq", node) end
  class.by_tenant[tenant] = (class.by_tenant[tenant] or 0) + 1
  waiting_by_tenant[tenant] = (waiting_by_tenant[tenant] or 0) + 1
  job_count = job_count + 1
end

-- A lane lost its last job; perhaps the group did.
local function close_lane(class, group, lane)
  local is_last = group.line.count == 0
  if is_last then
    class.models[group.model] = nil
    M.room_version = M.room_version + 1
  end
  group.tenants[lane.tenant] = nil
  local was_open = M.leave_turn(lane)
  if is_last and not was_open then M.match(class, group.model) end
  give_lane(lane)
  if is_last then give_group(group) end
end

local function unfile_job(node)
  node.gone = true
  local lane, tenant = node.lane, node.tenant
  local class, group, need = lane.class, lane.group, lane.needs[node.need]
  line_drop(class.line)
  line_drop(group.line)
  line_drop(lane.line)
  heaps.remove(need, node)
  if node.deadline then unfile_deadline(node, lane, need) end
  if node.raw.is_next then drop_next(node) end
  if need.n == 0 then
    lane.needs[node.need] = nil
    give_need(need)
  end
  if lane.first == node then find_first(lane) end
  if lane.line.count > 0 then file_front(lane) else close_lane(class, group, lane) end
  local of_class, of_tenant = class.by_tenant[tenant] - 1, waiting_by_tenant[tenant] - 1
  class.by_tenant[tenant] = of_class > 0 and of_class or nil
  waiting_by_tenant[tenant] = of_tenant > 0 and of_tenant or nil
  job_count = job_count - 1
end

-- ---------------------------------------------------------------------------------------------------------------------
-- Deltas

local function take_out(id)
  local node = jobs[id]
  if node then
    jobs[id] = nil
    unfile_job(node)
    M.queue_version = M.queue_version + 1
  end
end

-- A job that waits, new or anew. The arguments after `type` are demands that most jobs do not have.
function M.job(
  id, seq, tenant_id, session_id, priority, model_ref, prompt_hash, prompt_tokens, max_tokens, expected_tokens, seed,
  created_at, queued_at, attempt, deadline_at, estimated_vram_bytes, estimated_duration_ms, cost_units, type_,
  session_turn, is_next, geo_lat, geo_lon, engine, min_context_tokens, min_compute_capability, quantizations, pin_pool_id,
  prefer_pool_ids, avoid_pool_ids, min_vram_bytes, extensions)
  local rank = RANK[priority] or error("job " .. tostring(id) .. ": unknown priority " .. tostring(priority), 2)
  if jobs[id] then take_out(id) end
  local raw = {
    id = id, seq = seq, tenant_id = tenant_id, session_id = session_id, priority = priority, model_ref = model_ref,
    prompt_hash = prompt_hash, prompt_tokens = prompt_tokens, max_tokens = max_tokens,
    expected_tokens = expected_tokens, seed = seed, created_at = created_at, queued_at = queued_at, attempt = attempt,
    deadline_at = deadline_at, estimated_vram_bytes = estimated_vram_bytes,
    estimated_duration_ms = estimated_duration_ms, cost_units = cost_units, type = type_,
    session_turn = session_turn or 0, is_next = is_next == true, geo_lat = geo_lat, geo_lon = geo_lon, engine = engine or "",
    min_context_tokens = min_context_tokens or 0,
    min_compute_capability = min_compute_capability or "", quantizations = quantizations or "",
    pin_pool_id = pin_pool_id or "", prefer_pool_ids = prefer_pool_ids or "", avoid_pool_ids = avoid_pool_ids or "",
    min_vram_bytes = min_vram_bytes or 0, extensions = extensions or "",
  }
  local plain = raw.engine == "" and raw.min_context_tokens == 0 and raw.min_compute_capability == ""
    and raw.quantizations == "" and raw.pin_pool_id == "" and raw.prefer_pool_ids == "" and raw.avoid_pool_ids == ""
    and raw.min_vram_bytes == 0 and raw.extensions == ""
  -- `plain`: it demands nothing but room. `deadline`: what heaps compare.
  local node = {
    raw = raw, id = id, seq = seq, rank = rank, model = model_ref, tenant = tenant_id, deadline = deadline_at,
    turn = raw.session_turn, plain = plain, need = M.need_of(raw, plain), lane = false, gone = false,
  }
  jobs[id] = node
  M.job_made(node)
  file_job(node)
  M.queue_version = M.queue_version + 1
end

-- A label of a job that waits; `value` nil takes it away. They come after their job, and anew when it is replaced.
function M.job_label(id, name, value)
  local node = jobs[id]
  if not node then return end
  local labels = node.raw.label_values
  if not labels then
    labels = {}
    node.raw.label_values = labels
  end
  labels[name] = value
end

function M.job_gone(id) take_out(id) end

-- ---------------------------------------------------------------------------------------------------------------------
-- Answers

-- How many jobs of a class wait, for a model in it if given.
function M.waiting(rank, model)
  local class = classes[rank]
  if model == nil then return class.line.count end
  local group = class.models[model]
  return group and group.line.count or 0
end

-- The oldest job of each model of those that have waited for too long, oldest first; nil if there are none.
function M.overdue()
  if next(next_jobs) == nil then return nil end
  local found = {}
  for _, list in next, next_jobs do found[#found + 1] = list[1] end
  if #found > 1 then sort(found, older) end
  return found
end

function M.is_wanted(model)
  for rank = 1, #classes do
    if classes[rank].models[model] then return true end
  end
  return false
end

-- The oldest job of a class; of a model in it; of a tenant there.
function M.head(rank, model, tenant)
  if model == nil then return line_head(classes[rank].line) end
  local group = classes[rank].models[model]
  if tenant == nil then return group and line_head(group.line) end
  local lane = group and group.tenants[tenant]
  return lane and line_head(lane.line)
end

-- The oldest job for a model in a class of the tenants whose quotas leave room for one more.
function M.front(rank, model)
  local group = classes[rank].models[model]
  local lane = group and group.fronts[1]
  return lane and line_head(lane.line)
end

local function accepts(need, fits, a) return fits(need.due[1], a) end

-- Of the earliest deadlines of each tenant and need of a model, the first for which `fits(node, a)`.
function M.earliest_deadline(rank, model, fits, a)
  local group = classes[rank].models[model]
  if not group or group.due.n == 0 then return nil end
  local need = group.due[1]
  if fits then need = heaps.search(group.due, accepts, fits, a) end
  return need and need.due[1]
end

-- The same of all models that a worker is open for. A model is asked only if it could still have an earlier one.
function M.earliest_of_class(rank, fits, a)
  local best
  for _, model in ipairs(M.dispatchable(rank)) do
    local due = classes[rank].models[model].due
    if due.n > 0 and (not best or earlier(due[1].due[1], best)) then
      local found = M.earliest_deadline(rank, model, fits, a)
      if found and (not best or earlier(found, best)) then best = found end
    end
  end
  return best
end

-- Tenants of a class and model with waiting jobs, in the order of their ids.
function M.tenants_waiting(rank, model)
  local group = classes[rank].models[model]
  return group and M.sorted_keys(group.tenants) or {}
end

local function add_heads(found, lane)
  for _, need in next, lane.needs do found[#found + 1] = need[1] end
end

-- The job of each need of one tenant, or of all, of a model, whose turn it is; oldest first.
function M.heads(rank, model, tenant)
  local found, group = {}, classes[rank].models[model]
  local lanes = group and group.tenants or {}
  if tenant ~= nil then
    if lanes[tenant] then add_heads(found, lanes[tenant]) end
  else
    for _, lane in next, lanes do add_heads(found, lane) end
  end
  if #found > 1 then sort(found, older) end
  return found
end
