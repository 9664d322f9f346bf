"""Reads the tenants file: which tenant may have what.

```toml
[default]                      # every tenant without a table of its own
concurrent_jobs = 100

[tenants.team-a]
concurrent_jobs = 10
vram_bytes = 24_000_000_000
tokens_per_minute = 60_000
requests_per_second = 5.0
session_tokens = 200_000
session_cost_units = 500
```

What is left out does not limit. Unknown keys are errors: a misspelt quota that is silently ignored is none.
"""

from pathlib import Path

from beeyard_core import limits
from beeyard_core.ids import TenantId
from beeyard_core.quota import Quota, QuotaSettings
from beeyard_runtime.faults import StartFailed
from pydantic import BaseModel, ConfigDict, Field

from beeyard_queen.toml_file import read_toml


class _Quota(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    concurrent_jobs: int | None = Field(default=None, ge=0)
    vram_bytes: int | None = Field(default=None, ge=0)
    tokens_per_minute: int | None = Field(default=None, ge=0)
    requests_per_second: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    session_tokens: int | None = Field(default=None, ge=0)
    session_cost_units: int | None = Field(default=None, ge=0)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    default: _Quota = _Quota()
    tenants: dict[str, _Quota] = Field(default_factory=dict)


def read_tenants(path: Path | None, *, is_enforced: bool) -> QuotaSettings:
    """Return what each tenant may have; without a file, as much as there is.

    Raises:
        StartFailed: The file cannot be used; the message says what to do.
    """
    if path is None:
        return QuotaSettings(is_enforced=is_enforced)
    found = read_toml(path, _File, name="tenants", bytes_max=limits.TENANTS_FILE_BYTES_MAX)
    for tenant_id in found.tenants:
        if not 1 <= len(tenant_id.encode()) <= limits.ID_BYTES_MAX:
            message = f"a tenant's id is 1 to {limits.ID_BYTES_MAX} bytes"
            raise StartFailed(f"the tenants file {path}: {message}")
    return QuotaSettings(
        by_tenant={TenantId(i): Quota(**quota.model_dump()) for i, quota in found.tenants.items()},
        otherwise=Quota(**found.default.model_dump()),
        is_enforced=is_enforced,
    )
