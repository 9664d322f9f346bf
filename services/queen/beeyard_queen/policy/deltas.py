"""The border to a mirror: rows of the world as deltas, and the digest that proves a mirror equal to the world.

A delta is a name and scalars; a mirror (`lua/mirror`, in this process or in a policy's host) has a function of that
name that takes them in this order. The rows of `beeyard_core.policy.world` have their fields in that very order, so a
row and its delta cannot come apart: a test compares both with the mirror's own list. Arguments at the end that have
their default may be left out, as they are of most jobs.
"""

import struct
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Final

from beeyard_core.policy.changes import Change, Gone, WorkerLoad
from beeyard_core.policy.world import (
    GpuRow,
    HistoryRow,
    JobRow,
    ModelRow,
    PoolRow,
    PrefixRow,
    Row,
    RunningRow,
    TenantRow,
    WorkerRow,
    World,
)

Scalar = str | int | float | bool | None
#: The name of a delta and its arguments.
Delta = tuple[Scalar, ...]
KINDS: Final[dict[type, str]] = {
    WorkerRow: "worker",
    JobRow: "job",
    RunningRow: "running",
    PrefixRow: "prefix",
    PoolRow: "pool",
    GpuRow: "gpu",
    TenantRow: "tenant",
    ModelRow: "model",
    HistoryRow: "history",
}


# A job's labels come last, and have deltas of their own, since a delta takes scalars only. Before them stands what few
# jobs ask for.
_LABELS: Final = JobRow._fields.index("labels")
_DEMANDS: Final = JobRow._fields.index("geo_lat")
_NO_DEMANDS: Final = tuple(map(JobRow._field_defaults.get, JobRow._fields[_DEMANDS:_LABELS]))


def delta_of(row: Row) -> Delta:
    """Return the delta that puts a row into a mirror. A job's labels are not in it, see `labels_of`."""
    if isinstance(row, JobRow):
        return job_delta(row)
    return (KINDS[type(row)], *row)


def job_delta(job: JobRow) -> Delta:
    """Return the delta that puts a job into a mirror."""
    end = _DEMANDS if job[_DEMANDS:_LABELS] == _NO_DEMANDS else _LABELS
    return ("job", *job[:end])  # type: ignore[arg-type]  # all before the labels are scalars


def deltas_of(changes: Iterable[Change]) -> list[Delta]:
    """Return what tells a mirror of changes, in their order."""
    deltas: list[Delta] = []
    for change in changes:
        if isinstance(change, WorkerLoad):
            deltas.append(("worker_load", *change))
        elif isinstance(change, Gone):
            deltas.append((f"{change.kind}_gone", *change.key))
        elif isinstance(change, JobRow):
            deltas.append(job_delta(change))
            deltas.extend(labels_of(change))
        else:
            deltas.append((KINDS[type(change)], *change))
    return deltas


def labels_of(job: JobRow) -> Iterator[Delta]:
    """The deltas that give a job its labels; they come after the job's own."""
    return (("job_label", job.job_id, name, value) for name, value in job.labels)


def worker_load(worker: WorkerRow) -> Delta:
    """Return the short delta for a worker of which only its status and what is free have changed."""
    return (
        "worker_load",
        worker.worker_id,
        worker.status,
        worker.slots_free,
        worker.vram_free,
        worker.kv_free_tokens,
        worker.load,
        worker.last_used_at,
        worker.jobs_served,
        worker.served_class,
    )


def tenant_load(tenant: TenantRow) -> Delta:
    """Return the short delta for a tenant of which only what it uses and was served has changed."""
    return (
        "tenant_load",
        tenant.tenant_id,
        tenant.quota_used,
        tenant.jobs_running,
        tenant.tokens_served,
    )


def snapshot(world: World) -> Iterator[Delta]:
    """Everything, in an order that an empty mirror takes in fastest: jobs as they are served."""
    yield from (("alias", name, ref) for name, ref in world.aliases.items())
    yield from (("metric", name, value) for name, value in world.metrics.items())
    yield from (("config", name, value) for name, value in world.config.items())
    for row in world.rows():
        if not isinstance(row, JobRow):
            yield delta_of(row)
    for job in sorted(world.jobs.values(), key=attrgetter("seq")):
        yield delta_of(job)
        yield from labels_of(job)


# --- The digest: for each kind, how many rows and the sum of their hashes, so that no order matters ---

_MASK: Final = (1 << 64) - 1
_MULTIPLIER: Final = 0x9E3779B97F4A7C15
_SEPARATOR: Final = "\x1f"


def _canonical(value: Scalar) -> str:
    # A whole float and an integer are one value: which of them a figure is depends on where it came from.
    if value is None:
        return "~"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.17g}"
    return str(value)


def _hash(text: str) -> int:
    encoded = text.encode()
    state = len(encoded)
    padded = encoded + bytes(-len(encoded) % 8)
    for word in struct.unpack(f"<{len(padded) // 8}Q", padded):
        state = (state ^ word) * _MULTIPLIER & _MASK
        state ^= state >> 29
    return state


def _lines(world: World) -> Iterator[tuple[str, Iterable[Scalar]]]:
    for row in world.rows():
        yield KINDS[type(row)], row[:_LABELS]  # type: ignore[misc]  # all before the labels are scalars
    for job in world.jobs.values():
        for _, *label in labels_of(job):
            yield "label", label
    yield from (("alias", item) for item in world.aliases.items())
    yield from (("metric", item) for item in world.metrics.items())
    yield from (("config", item) for item in world.config.items())


def digest(world: World) -> str:
    """Return the text that `M.digest()` returns in a mirror of the same world."""
    tally: dict[str, tuple[int, int]] = {}
    for kind, values in _lines(world):
        count, total = tally.get(kind, (0, 0))
        line = _SEPARATOR.join((kind, *map(_canonical, values)))
        tally[kind] = count + 1, total + _hash(line) & _MASK
    return " ".join(
        sorted(f"{kind}:{count}:{total:016x}" for kind, (count, total) in tally.items())
    )
