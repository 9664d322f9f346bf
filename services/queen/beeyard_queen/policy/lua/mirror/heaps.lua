-- Binary heaps that know where each of their nodes is, so that any node can be moved or removed in O(log n).
--
-- Every order ends in something unique, so what comes first never depends on how a heap came about.

local M = ...
local heaps = {}

-- `less(a, b)`: whether a comes first.
function heaps.new(less) return { less = less, pos = {}, n = 0 } end

local function sift_up(heap, at)
  local less, pos, node = heap.less, heap.pos, heap[at]
  while at > 1 do
    local above = at >> 1
    local other = heap[above]
    if not less(node, other) then break end
    heap[at], pos[other], at = other, at, above
  end
  heap[at], pos[node] = node, at
  return at
end

local function sift_down(heap, at)
  local less, pos, node, n = heap.less, heap.pos, heap[at], heap.n
  while true do
    local below = at << 1
    if below > n then break end
    local other = heap[below]
    if below < n and less(heap[below + 1], other) then
      below = below + 1
      other = heap[below]
    end
    if not less(other, node) then break end
    heap[at], pos[other], at = other, at, below
  end
  heap[at], pos[node] = node, at
end

function heaps.add(heap, node)
  local n = heap.n + 1
  heap.n, heap[n] = n, node
  sift_up(heap, n)
end

-- Call after the node's key changed.
local function fix(heap, node)
  local at = heap.pos[node]
  if sift_up(heap, at) == at then sift_down(heap, at) end
end
heaps.fix = fix

function heaps.remove(heap, node)
  local n = heap.n
  local at, last = heap.pos[node], heap[n]
  heap[n], heap.n, heap.pos[node] = nil, n - 1, nil
  if last ~= node then
    heap[at], heap.pos[last] = last, at
    fix(heap, last)
  end
end

local function search_below(heap, fits, a, b)
  local less, n, best = heap.less, heap.n, nil
  local stack, top = { 2, 3 }, 2
  while top > 0 do
    local at = stack[top]
    top = top - 1
    local node = heap[at]
    if node and (not best or less(node, best)) then
      if fits(node, a, b) then
        best = node
      elseif at << 1 <= n then
        stack[top + 1], stack[top + 2], top = at << 1, at << 1 | 1, top + 2
      end
    end
  end
  return best
end

-- The first node that `fits(node, a, b)`, or nil. A node's children never come before it, so only nodes that do not fit
-- and could still be beaten are opened: O(1) when the first fits, O(n) when nothing does.
function heaps.search(heap, fits, a, b)
  local first = heap[1]
  if first == nil or fits(first, a, b) then return first end
  return search_below(heap, fits, a, b)
end

M.heaps = heaps
