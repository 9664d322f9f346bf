"""Bugs that are planted on purpose, by name: a simulation that does not find them proves nothing.

Each is what somebody could have written: a check left out, a step too early, something forgotten. A mutant is a list of
seams, exchanged for the time of a run on top of those of the world.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import beeyard_queen.app as queen_app
from beeyard_core import attendance, reconcile, settlement
from beeyard_core import step as core_step
from beeyard_core.dispatch import free
from beeyard_core.instant import Instant
from beeyard_core.lease import Lease, LeaseVerb
from beeyard_core.restore import restore
from beeyard_core.state import QueenState, Wish
from beeyard_core.tenants import Tenants
from beeyard_pool_manager.workers import worker_watch
from beeyard_queen.actor import QueenActor
from beeyard_queen.egress.links import WorkerLink
from beeyard_queen.egress.relay import Relay
from beeyard_queen.ingress.following import Following
from beeyard_queen.loop import WriterLoop
from beeyard_queen.prompts import Prompts
from beeyard_queen.store.port import Batch, StoreUnavailable

from tests.simulation.outside import Seam

_fill = QueenActor.fill
_commit = WriterLoop._commit
_add_counters = WriterLoop._add_counters
_restore = restore
_open = Following.open
_note_failure = reconcile.note_failure


def _lease_of_any_epoch(relay: Relay, link: WorkerLink, lease_id: Any, epoch: int) -> Lease | None:
    """Let whoever names a lease write, be it taken back."""
    return relay.state.leases.get(lease_id)


def _free_nothing(state: QueenState, lease: Lease, verb: LeaseVerb) -> None:
    """Forget to give the slot back when a worker is done."""


def _end_without_slot(state: QueenState, lease_id: Any) -> None:
    """Forget the slot of a worker that was told to stop and never said that it did."""


def _hold_revoked(state: QueenState, lease: Lease, verb: LeaseVerb) -> None:
    """Give the slot back when a lease ends by itself, and forget it when it was taken back."""
    if lease.is_current:
        free(state, lease, verb)


def _note_each_end(
    state: QueenState, wish: Wish, message: str, now: Instant, *, was_killed: bool = False
) -> None:
    """Take every end of a worker for a failure to load its model, also where several ended at once."""
    wish.has_loaded = False
    if (known := state.failures.get(wish.desired.model)) is not None:
        known.counted_at_ms = -1
    _note_failure(state, wish, message, now)


def _fill_and_acknowledge(actor: QueenActor, batch: Batch, saved: Any, *, everything: bool) -> None:
    """Let workers forget tokens that are about to become durable."""
    _fill(actor, batch, saved, everything=everything)
    actor.committed(batch)


async def _commit_behind(loop: WriterLoop, batch: Batch, actor: Any) -> bool:
    """Go on before the disk has answered."""
    loop.background = asyncio.create_task(_commit(loop, batch, actor))  # type: ignore[attr-defined]
    return True


async def _commit_or_not(loop: WriterLoop, batch: Batch, actor: Any) -> bool:
    """Take a full disk for a good one."""
    try:
        await loop._store.commit(batch)
    except StoreUnavailable:
        pass
    actor.committed(batch)
    return True


def _open_one_further(following: Following, job_id: Any, from_token: int) -> Any:
    """Mistake the index of the last token for that of the next."""
    return _open(following, job_id, from_token + (from_token > 0))


def _restore_without_requests(*args: Any, **options: Any) -> QueenState:
    """Forget which request ids are taken."""
    state = _restore(*args, **options)
    state.requests.clear()
    for job in state.jobs.values():
        job.request_id = ""
    return state


def _add_counters_without_epoch(loop: WriterLoop, batch: Batch) -> None:
    """Forget to write down which epochs were given out."""
    _add_counters(loop, batch)
    batch.epoch = 0


def _unsaved_prompt(prompts: Prompts, job_id: Any) -> None:
    """Keep prompts in memory alone."""


def _no_lease_expires(state: QueenState, *_: Any) -> None:
    """Wait for a silent worker for ever."""


#: Every planted bug. The first three are those that a system of this kind must not have.
MUTANTS: Final[dict[str, Callable[[], list[Seam]]]] = {
    "no epoch check": lambda: [Seam(Relay, "_lease", _lease_of_any_epoch)],
    "lease not released": lambda: [Seam(settlement, "free", _free_nothing)],
    "token acknowledged before commit": lambda: [Seam(QueenActor, "fill", _fill_and_acknowledge)],
    "job accepted before commit": lambda: [Seam(WriterLoop, "_commit", _commit_behind)],
    "full disk taken for a good one": lambda: [Seam(WriterLoop, "_commit", _commit_or_not)],
    "resumed from the wrong index": lambda: [Seam(Following, "open", _open_one_further)],
    "request ids forgotten by a restart": lambda: [
        Seam(queen_app, "restore", _restore_without_requests)
    ],
    "epochs forgotten by a restart": lambda: [
        Seam(WriterLoop, "_add_counters", _add_counters_without_epoch)
    ],
    "prompts kept in memory alone": lambda: [Seam(Prompts, "unsaved", _unsaved_prompt)],
    "revoked lease not released": lambda: [
        Seam(settlement, "free", _hold_revoked),
        Seam(core_step, "revocation_timer", _end_without_slot),
    ],
    "quota not given back": lambda: [Seam(Tenants, "end_job", lambda *_: None)],
    "kills taken for failed loads": lambda: [Seam(worker_watch, "_BY_OTHERS", frozenset())],
    "each end of a worker taken for a failed load": lambda: [
        Seam(reconcile, "note_failure", _note_each_end)
    ],
    "silent workers keep their leases": lambda: [Seam(attendance, "_dismiss", _no_lease_expires)],
}
