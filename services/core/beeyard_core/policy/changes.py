"""What a mirror of the world is told: rows that are new or changed, and keys that are gone.

A mirror (the Lua index in the queen's process or in a policy's host, the Python twin) takes changes in the order in
which they are given and so holds the world as it was when they were made.
"""

from typing import Literal, NamedTuple

from beeyard_core.policy.world import Row


class WorkerLoad(NamedTuple):
    """What changes of a worker while it works; everything else is as its last row said.

    Attributes:
        status: As in `world.WorkerRow`, like the others.
        vram_free: Bytes.
        kv_free_tokens: None: unknown, which excludes nothing.
        last_used_at: Milliseconds, on the clock of `now_ms`.
    """

    worker_id: str
    status: str
    slots_free: int
    vram_free: int
    kv_free_tokens: int | None
    load: float
    last_used_at: int
    jobs_served: int
    served_class: str


#: What can be gone; hosts are known for good. A GPU's key is its pool and its id, every other key one id.
GoneKind = Literal["worker", "job", "running", "gpu", "tenant", "model"]


class Gone(NamedTuple):
    """One key that no row has any more."""

    kind: GoneKind
    key: tuple[str, ...]


Change = Row | WorkerLoad | Gone
