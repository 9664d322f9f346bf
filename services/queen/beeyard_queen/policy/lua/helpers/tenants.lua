-- Tenants, their quotas and their share of the fleet.

local M, _, H, K = ...

local ipairs, type = ipairs, type
local huge = math.huge
local amount, job_of, tenant_of, number_or = K.amount, K.job_of, K.tenant_of, K.number_or

-- Whether a tenant's quotas leave room for a job, or for an amount of VRAM in bytes.
function H.check_tenant_quota(tenant, wanted)
  local node = M.tenants[tenant]
  -- The record itself costs less to read than its view, and this is asked of tenant after tenant.
  local found = node and node.raw or tenant_of(tenant, 1, "check_tenant_quota")
  if type(wanted) == "string" then wanted = job_of(wanted, 2, "check_tenant_quota") or 0 end
  if type(wanted) == "table" then wanted = number_or(wanted.estimated_vram_bytes, 0) end
  local bytes = amount(wanted or 0, 2, "check_tenant_quota")
  if not found then return false, "tenant_unknown" end
  if not bytes then return false, "amount_invalid" end
  if found.quota_vram and found.quota_used + bytes > found.quota_vram then return false, "vram_quota_exceeded" end
  if found.quota_jobs and found.jobs_running >= found.quota_jobs then return false, "job_quota_exceeded" end
  return true
end
H.check_quota = H.check_tenant_quota

function H.get_tenant_usage(tenant)
  local found = tenant_of(tenant, 1, "get_tenant_usage")
  if not found then return nil end
  return {
    vram = found.quota_used, jobs_running = found.jobs_running, jobs_waiting = found.jobs_waiting,
    tokens_served = found.tokens_served, tokens_per_minute = found.tokens_per_minute,
  }
end

-- Whether a tenant uses all it may: nothing more should start.
function H.tenant_over_quota(tenant)
  local found = tenant_of(tenant, 1, "tenant_over_quota")
  if not found then return true end
  return (found.quota_vram ~= nil and found.quota_used >= found.quota_vram)
    or (found.quota_jobs ~= nil and found.jobs_running >= found.quota_jobs)
end

-- Bytes of VRAM left, never negative; infinite without a quota.
function H.tenant_remaining_quota(tenant)
  local found = tenant_of(tenant, 1, "tenant_remaining_quota")
  if not found then return 0 end
  if not found.quota_vram then return huge end
  local left = found.quota_vram - found.quota_used
  return left > 0 and left or 0
end

-- What the tenant would use with the job running, in bytes.
function H.estimate_quota_impact(tenant, job)
  local found, asked = tenant_of(tenant, 1, "estimate_quota_impact"), job_of(job, 2, "estimate_quota_impact")
  if not found or not asked then return nil end
  return found.quota_used + number_or(asked.estimated_vram_bytes, 0)
end

-- Tokens that a tenant is behind its weighted share of what all tenants were served; negative: ahead of it.
local shares = { version = -1 }
function H.fair_share_deficit(tenant)
  local found = tenant_of(tenant, 1, "fair_share_deficit")
  if not found then return 0 end
  if shares.version ~= M.tenant_version then
    shares = { version = M.tenant_version, tokens = 0, weight = 0 }
    for _, node in ipairs(M.tenant_list) do
      shares.tokens, shares.weight = shares.tokens + node.raw.tokens_served, shares.weight + node.raw.weight
    end
  end
  if shares.weight <= 0 then return 0 end
  return shares.tokens * found.weight / shares.weight - found.tokens_served
end
