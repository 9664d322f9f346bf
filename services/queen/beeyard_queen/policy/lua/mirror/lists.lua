-- Sorted lists, for what there are few of: pools, GPUs of a pool, tenants; and the members of a scope of workers. And
-- stacks of spares.

local M = ...
local lists = {}

local insert, remove = table.insert, table.remove

-- Where a node of this key is, or would be.
local function place_of(list, key, value)
  local low, high = 1, #list + 1
  while low < high do
    local mid = (low + high) // 2
    if list[mid][key] < value then low = mid + 1 else high = mid end
  end
  return low
end

function lists.insert(list, key, node) insert(list, place_of(list, key, node[key]), node) end

function lists.remove(list, key, node) remove(list, place_of(list, key, node[key])) end

-- Emptied things kept for their next use. In a queue that is almost empty, every job is the first and the last of its
-- model and tenant: without this it would cost thirty tables.
local SPARES_MAX = 64

-- Returns how to take one, made by `make` if none is there, and how to give one back.
function lists.spares(make)
  local spares, n = {}, 0
  local function take()
    if n == 0 then return make() end
    local spare = spares[n]
    spares[n], n = nil, n - 1
    return spare
  end
  local function give(spare)
    if n < SPARES_MAX then
      n = n + 1
      spares[n] = spare
    end
  end
  return take, give
end

M.lists = lists
