-- Tenants, and turns: those with waiting jobs whose quotas leave room for one more, whoever was served least for its
-- weight first, then whoever runs least, then by id. A tenant that nobody told of was never served and has no quota.

local M = ...

local next = next
local insert, remove, huge = table.insert, table.remove, math.huge
local heaps, lists = M.heaps, M.lists

M.tenant_version = 0
local tenants, tenant_list = {}, {}
M.tenants, M.tenant_list = tenants, tenant_list

-- Every tenant with waiting jobs has a turn; the list holds the open ones. Each has a *slot*, a small number of its own,
-- and the list of these goes beside: whoever looks for the next tenant with a lane somewhere passes many without, and
-- numbers lie side by side in memory where turns are far apart.
local turns, turn_list, turn_slots = {}, {}, {}
M.turn_list, M.turn_slots = turn_list, turn_slots
local free_slots, slot_count = {}, 0

local function slot_new()
  local slot = remove(free_slots)
  if not slot then
    slot_count = slot_count + 1
    slot = slot_count
  end
  return slot
end

local function sooner(a, b)
  if a.share ~= b.share then return a.share < b.share end
  if a.running ~= b.running then return a.running < b.running end
  return a.id < b.id
end

local function place_of(turn)
  local low, high = 1, #turn_list + 1
  while low < high do
    local mid = (low + high) // 2
    if sooner(turn_list[mid], turn) then low = mid + 1 else high = mid end
  end
  return low
end

local take_turn, give_turn = lists.spares(function() return { lanes = {}, count = 0 } end)

local function enter(turn)
  local at = place_of(turn)
  insert(turn_list, at, turn)
  insert(turn_slots, at, turn.slot)
end

local function exit(turn)
  local at = place_of(turn)
  remove(turn_list, at)
  remove(turn_slots, at)
end

-- What is served and runs for a tenant's weight, and whether one more job may start.
local function standing_of(id)
  local node = tenants[id]
  if not node then return 0, 0, true end
  local raw = node.raw
  local is_open = not (raw.quota_jobs and raw.jobs_running >= raw.quota_jobs)
    and not (raw.quota_vram and raw.quota_used > raw.quota_vram)
  if not (raw.weight > 0) then return huge, huge, is_open end
  return raw.tokens_served / raw.weight, raw.jobs_running / raw.weight, is_open
end

local function open_lane(lane)
  local group = lane.group
  heaps.add(group.fronts, lane)
  for _, need in next, lane.needs do
    if need.due and need.due.n > 0 then heaps.add(group.due, need) end
  end
  if group.fronts.n == 1 then M.match(lane.class, group.model) end
end

local function close_lane(lane)
  local group = lane.group
  heaps.remove(group.fronts, lane)
  for _, need in next, lane.needs do
    if group.due.pos[need] then heaps.remove(group.due, need) end
  end
  if group.fronts.n == 0 then M.match(lane.class, group.model) end
end

-- A lane got its first job.
function M.join_turn(lane)
  local id = lane.tenant
  local turn = turns[id]
  if not turn then
    local share, running, is_open = standing_of(id)
    turn = take_turn()
    turn.id, turn.share, turn.running, turn.open, turn.slot = id, share, running, is_open, slot_new()
    turns[id] = turn
    if is_open then enter(turn) end
  end
  lane.turn, turn.lanes[lane], turn.count = turn, true, turn.count + 1
  lane.group.by_slot[turn.slot] = lane
  if turn.open then open_lane(lane) end
end

-- A lane lost its last job. Returns whether it was open.
function M.leave_turn(lane)
  local turn = lane.turn
  if turn.open then close_lane(lane) end
  turn.lanes[lane], turn.count = nil, turn.count - 1
  lane.group.by_slot[turn.slot] = nil
  if turn.count == 0 then
    if turn.open then exit(turn) end
    turns[turn.id] = nil
    insert(free_slots, turn.slot)
    give_turn(turn)
  end
  return turn.open
end

-- Move a turn that stays open. Most steps are small and pass nobody.
local function move(turn, share, running)
  local at = place_of(turn)
  turn.share, turn.running = share, running
  local before, after = turn_list[at - 1], turn_list[at + 1]
  if (before and sooner(turn, before)) or (after and sooner(after, turn)) then
    remove(turn_list, at)
    remove(turn_slots, at)
    enter(turn)
  end
end

local function retake_turn(id)
  local turn = turns[id]
  if not turn then return end
  local share, running, is_open = standing_of(id)
  if turn.open and is_open then
    if share ~= turn.share or running ~= turn.running then move(turn, share, running) end
    return
  end
  if turn.open then exit(turn) end
  turn.share, turn.running = share, running
  if turn.open ~= is_open then
    turn.open = is_open
    if is_open then enter(turn) end
    local change = is_open and open_lane or close_lane
    for lane in next, turn.lanes do change(lane) end
  end
end

-- Quotas that are nil are not enforced.
function M.tenant(
  id, quota_vram, quota_used, quota_jobs, jobs_running, tokens_served, tokens_per_minute, weight)
  local node = tenants[id]
  if not node then
    node = { id = id, raw = { id = id } }
    tenants[id] = node
    lists.insert(tenant_list, "id", node)
    M.tenant_views = nil
  end
  local raw = node.raw
  raw.quota_vram, raw.quota_used, raw.quota_jobs, raw.jobs_running = quota_vram, quota_used or 0, quota_jobs,
    jobs_running or 0
  raw.tokens_served, raw.tokens_per_minute, raw.weight = tokens_served or 0, tokens_per_minute, weight or 1
  M.tenant_version = M.tenant_version + 1
  retake_turn(id)
end

-- What changes while a tenant's jobs run: cheaper than sending all of it. Unknown tenants are ignored.
function M.tenant_load(id, quota_used, jobs_running, tokens_served)
  local node = tenants[id]
  if not node then return end
  local raw = node.raw
  raw.quota_used, raw.jobs_running, raw.tokens_served = quota_used, jobs_running, tokens_served
  M.tenant_version = M.tenant_version + 1
  retake_turn(id)
end

function M.tenant_gone(id)
  local node = tenants[id]
  if not node then return end
  tenants[id], M.tenant_views = nil, nil
  retake_turn(id)
  lists.remove(tenant_list, "id", node)
  M.tenant_version = M.tenant_version + 1
end
