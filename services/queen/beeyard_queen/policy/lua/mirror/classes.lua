-- The classes, the most urgent first, and what of each could start: the one question that every decision begins with.
--
-- Below a class, the jobs of one model are a *group*; in it, those of one tenant a *lane*; in it, those of one need a
-- line. A lane is open while its tenant's quotas leave room for one more job.

local M = ...

local next, sort = next, table.sort

M.CLASSES = { "interactive", "normal", "batch", "background" }
M.RANK = {}
for rank, name in ipairs(M.CLASSES) do M.RANK[name] = rank end

-- Counts up with every change of where a worker could be started, or which could go: GPUs, pools, models, idle workers
-- and what jobs wait for.
M.room_version = 0

-- The models' workers, see scopes.lua.
local scopes = {}
M.model_scopes = scopes

-- matched: models with an open lane and an open worker. unserved: models with jobs and no worker that serves them, now
-- or once it has loaded. The lists are the same in order, made when they are asked for.
local classes = {}
for rank = 1, #M.CLASSES do
  classes[rank] = {
    line = M.lines.new(), models = {}, by_tenant = {}, matched = {}, matched_list = {}, unserved = {}, unserved_list = {},
  }
end
M.classes = classes

-- Call after a model's group or lanes, or its workers, opened or closed.
function M.match(class, model)
  local scope, group = scopes[model], class.models[model]
  local matched = group ~= nil and group.fronts.n > 0 and scope ~= nil and scope.open > 0 or nil
  local unserved = group ~= nil and (scope == nil or scope.live == 0) or nil
  if matched ~= class.matched[model] then class.matched[model], class.matched_list = matched, nil end
  if unserved ~= class.unserved[model] then class.unserved[model], class.unserved_list = unserved, nil end
end

function M.rematch(model)
  for rank = 1, #classes do M.match(classes[rank], model) end
end

local function sorted_keys(map)
  local list, n = {}, 0
  for key in next, map do
    n = n + 1
    list[n] = key
  end
  if n > 1 then sort(list) end
  return list
end
M.sorted_keys = sorted_keys

-- Models of a class with a job that quotas let start and an open worker, in the order of their names. Do not change the
-- list.
function M.dispatchable(rank)
  local class = classes[rank]
  local list = class.matched_list
  if not list then
    list = sorted_keys(class.matched)
    class.matched_list = list
  end
  return list
end

-- Models of a class for which jobs wait and no worker is there or loading, by name. Do not change the list.
function M.unserved(rank)
  local class = classes[rank]
  local list = class.unserved_list
  if not list then
    list = sorted_keys(class.unserved)
    class.unserved_list = list
  end
  return list
end
