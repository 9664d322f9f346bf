"""Names of things, as distinct types, so that one id cannot be passed for another."""

from typing import NewType

JobId = NewType("JobId", str)
WorkId = NewType("WorkId", str)
LeaseId = NewType("LeaseId", str)
WorkerId = NewType("WorkerId", str)
PoolId = NewType("PoolId", str)
TenantId = NewType("TenantId", str)
ModelName = NewType("ModelName", str)
#: Monotonic over all leases of one queen, also over its restarts: the fence of the system.
Epoch = NewType("Epoch", int)
#: Longer numbers are no epochs: nobody gives out so many leases, and they would not fit the store's 63 bits.
_EPOCH_DIGITS_MAX = 18


def lease_id_of(epoch: Epoch) -> LeaseId:
    """Return the lease's name; the epoch alone identifies it."""
    return LeaseId(f"lease-{epoch}")


def epoch_of(lease_id: LeaseId) -> Epoch:
    """Return the epoch that a lease's name stands for; 0, which no lease has, for what is no such name."""
    digits = lease_id.removeprefix("lease-")
    is_number = digits.isascii() and digits.isdecimal() and len(digits) <= _EPOCH_DIGITS_MAX
    epoch = Epoch(int(digits)) if is_number else Epoch(0)
    return epoch if lease_id_of(epoch) == lease_id else Epoch(0)
