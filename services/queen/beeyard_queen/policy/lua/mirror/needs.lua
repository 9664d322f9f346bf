-- Needs: what decides where a job could run, apart from its model. Jobs of one model and tenant whose needs fall into
-- one bucket wait in one line, and stand and fall together: a decision looks at the first of them.

local M = ...

local type = type
local concat, floor, mathtype = table.concat, math.floor, math.type

-- Four steps an octave: monotonic, exact in integers, so the same on every machine.
local function quantised(amount)
  if mathtype(amount) ~= "integer" then
    if type(amount) ~= "number" or amount ~= amount or amount >= 2 ^ 62 then return 0 end
    amount = floor(amount)
  end
  if amount < 4 then return amount < 0 and 0 or amount end
  local octave = 0
  while amount >= 8 do
    amount = amount >> 1
    octave = octave + 1
  end
  return octave * 4 + amount
end
M.quantised = quantised

-- A number for a job that demands nothing special, else a text.
function M.need_of(raw, is_plain)
  local size = quantised(((raw.prompt_tokens or 0) + (raw.max_tokens or 0)) // 512) << 8
  local bytes = raw.estimated_vram_bytes or 0
  if bytes ~= 0 then size = size | quantised(bytes // 1048576) end
  if is_plain then return size end
  return concat({
    size, raw.engine, raw.min_context_tokens, raw.min_compute_capability, raw.quantizations, raw.pin_pool_id,
    raw.prefer_pool_ids, raw.avoid_pool_ids, raw.min_vram_bytes, raw.extensions,
  }, "\31")
end
