-- Sorted lists, for what there are few of: pools, GPUs of a pool, tenants; and the members of a scope of workers.

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

M.lists = lists
