"""Which work gets a lease now, and on which host: the most urgent piece that the caller can do and that fits.

Whoever was denied for want of units comes back a moment later, and stands *at the door* meanwhile. So the order of
classes, and of acceptance within a class, holds between callers as well: a request first sets aside what more urgent
work at the door is about to get, and takes of the rest.

Smaller work overtakes what does not fit, so that units are not idle while something could use them, until the larger
has waited for `WORK_PATIENCE_MS`; then nothing less urgent passes it. Work that nobody asks for holds nobody up.
"""

from dataclasses import dataclass, replace

from beeyard_core import limits
from beeyard_core.capacity import Room, rooms
from beeyard_core.ids import PoolId, WorkId
from beeyard_core.instant import Instant
from beeyard_core.job import Priority
from beeyard_core.state import QueenState
from beeyard_core.work import Work
from beeyard_core.work_ask import DenialReason, Denied, LeaseWanted


@dataclass(frozen=True, slots=True)
class Match:
    """A piece of work and the host whose units it will use."""

    work: Work
    pool_id: PoolId


def match(state: QueenState, wanted: LeaseWanted, now: Instant) -> Match | Denied:
    """Choose the work that a caller gets, or say why it gets none."""
    if state.is_draining:
        return denied(DenialReason.DRAINING, "the queen is shutting down", limits.RECONNECT_MAX_MS)
    candidates = _candidates(state, wanted)
    if not candidates:
        return denied(DenialReason.NO_WORK, "no work of these kinds waits")
    own = [w for w in candidates if not wanted.units_max or w.spec.units <= wanted.units_max]
    if not own:
        message = f"what waits needs more than {wanted.units_max} units"
        return denied(DenialReason.TOO_LARGE, message)
    found = _allot(state, own, wanted.pool_id, now)
    if isinstance(found, Denied) and found.reason is DenialReason.NO_CAPACITY:
        state.work.at_door[own[0].work_id] = (now.mono_ms, wanted.pool_id)
    return found


def _candidates(state: QueenState, wanted: LeaseWanted) -> list[Work]:
    """Return what the caller could do, the most urgent first."""
    queue = state.work.queue
    if wanted.work_id is None:
        return [
            work
            for priority in Priority
            for work in queue.heads(priority, wanted.kinds, wanted.tenant_id)
        ]
    work = state.work.works[wanted.work_id]
    is_wanted = work.work_id in queue and (not wanted.kinds or work.spec.kind in wanted.kinds)
    return [work] if is_wanted else []


def _at_door(state: QueenState, own: list[Work], now: Instant) -> dict[WorkId, PoolId | None]:
    """Return the work of others that somebody waits for right now, with the host that it is wanted on."""
    door, known = state.work.at_door, {work.work_id for work in own}
    for work_id in [w for w, (at, _) in door.items() if now.mono_ms - at > _DOOR_MS]:
        del door[work_id]
    return {work_id: pool_id for work_id, (_, pool_id) in door.items() if work_id not in known}


_DOOR_MS = limits.WORK_AT_THE_DOOR_MS


def _urgency(work: Work) -> tuple[Priority, int]:
    return work.spec.priority, work.sequence


def _allot(
    state: QueenState, own: list[Work], pool_id: PoolId | None, now: Instant
) -> Match | Denied:
    """Go through all that is waited for, the most urgent first, and give what is due to others before the caller."""
    there = {room.pool_id: room for room in rooms(state, now)}
    others = _at_door(state, own, now)
    everything = [*own, *(state.work.works[work_id] for work_id in others)]
    worst: Denied | None = None
    for work in sorted(everything, key=_urgency):
        is_own = work.work_id not in others
        wish = pool_id if is_own else others[work.work_id]
        possible = [room for room in there.values() if wish in (None, room.pool_id)]
        fitting = [room for room in possible if room.takes(work)]
        if fitting:
            chosen = min(fitting, key=lambda room: (-room.free, room.pool_id))
            if is_own:
                return Match(work, chosen.pool_id)
            there[chosen.pool_id] = replace(chosen, leased=chosen.leased + work.spec.units)
            continue
        reason = _why_not(possible, work)
        if is_own:
            worst = reason if worst is None else max(worst, reason, key=lambda one: one.reason)
        waited_ms = now.mono_ms - work.accepted_at.mono_ms
        has_patience = waited_ms < limits.WORK_PATIENCE_MS
        if reason.reason is DenialReason.NO_CAPACITY and not has_patience:
            break
    return worst or denied(DenialReason.NO_CAPACITY, "work that has waited for long is first")


def _why_not(possible: list[Room], work: Work) -> Denied:
    if not possible:
        return denied(DenialReason.CAPACITY_GATED, "no such host reports how busy it is")
    if any(room.would_take(work) for room in possible):
        free = max(room.free for room in possible)
        message = f"{work.spec.units} units are needed, {free} are free"
        return denied(DenialReason.NO_CAPACITY, message)
    calmest = min(possible, key=lambda room: (room.rating.busy, room.pool_id)).rating
    message = f"too busy for {work.spec.priority.name} work: rated {calmest.busy}, {calmest.worst}"
    return denied(DenialReason.CAPACITY_GATED, message)


def denied(
    reason: DenialReason, message: str, retry_after_ms: int = limits.WORK_RETRY_MS
) -> Denied:
    """Say "not now"."""
    return Denied(reason, message, retry_after_ms)
