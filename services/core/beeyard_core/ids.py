"""Names of things, as distinct types, so that one id cannot be passed for another."""

from typing import NewType

JobId = NewType("JobId", str)
LeaseId = NewType("LeaseId", str)
WorkerId = NewType("WorkerId", str)
PoolId = NewType("PoolId", str)
TenantId = NewType("TenantId", str)
ModelName = NewType("ModelName", str)
#: Monotonic over all leases of one queen, also over its restarts: the fence of the system.
Epoch = NewType("Epoch", int)


def lease_id_of(epoch: Epoch) -> LeaseId:
    """Return the lease's name; the epoch alone identifies it."""
    return LeaseId(f"lease-{epoch}")
