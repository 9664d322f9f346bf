-- Lines: jobs in order of `seq`, oldest first, at items[head..tail].
--
-- A job that left is marked `gone` and skipped, and swept out once such jobs are more than half. New jobs are appended;
-- one that comes back is put near the head.

local M = ...
local lines = {}

local SWEEP_MIN = 32

function lines.new() return { items = {}, head = 1, tail = 0, count = 0 } end

local function put_between(line, node)
  local items, head, tail, seq = line.items, line.head, line.tail, node.seq
  local low, high = head, tail
  while low < high do
    local mid = (low + high) // 2
    if items[mid].seq < seq then low = mid + 1 else high = mid end
  end
  if low - head < tail - low then
    for at = head, low - 1 do items[at - 1] = items[at] end
    line.head = head - 1
    items[low - 1] = node
  else
    for at = tail, low, -1 do items[at + 1] = items[at] end
    line.tail = tail + 1
    items[low] = node
  end
end

function lines.add(line, node)
  local items, tail = line.items, line.tail
  line.count = line.count + 1
  if tail < line.head or items[tail].seq < node.seq then
    line.tail = tail + 1
    items[tail + 1] = node
  else
    put_between(line, node)
  end
end

local function sweep(line)
  local kept, n = {}, 0
  for at = line.head, line.tail do
    local node = line.items[at]
    if not node.gone then
      n = n + 1
      kept[n] = node
    end
  end
  line.items, line.head, line.tail = kept, 1, n
end

-- Call after marking the node `gone`.
function lines.drop(line)
  local count = line.count - 1
  local items, head, tail = line.items, line.head, line.tail
  line.count = count
  if items[head].gone then
    repeat
      items[head] = nil
      head = head + 1
    until head > tail or not items[head].gone
    line.head = head
  end
  if head > tail then
    line.head, line.tail = 1, 0
  elseif tail - head >= SWEEP_MIN and tail - head + 1 > 2 * count then
    sweep(line)
  end
end

-- The oldest job of a line; nil if it is empty or there is no line.
function lines.head(line)
  if line and line.count > 0 then return line.items[line.head] end
  return nil
end

-- Walk a line's jobs, oldest first. The line must not change meanwhile.
function M.walk(line)
  local at, tail, items = line.head - 1, line.tail, line.items
  return function()
    repeat at = at + 1 until at > tail or not items[at].gone
    return at <= tail and items[at] or nil
  end
end

M.lines = lines
