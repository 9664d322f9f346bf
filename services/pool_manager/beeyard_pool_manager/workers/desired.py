"""Compares the workers that should run with those that do. Pure.

The queen sends the whole list of what should be, and this host keeps applying the last list, so a message lost or
repeated changes nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from beeyard_core.fleet import DesiredState, DesiredWorker


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """What the queen last said.

    Attributes:
        authoritative: Workers that are not named are to be stopped. False while a new queen learns its fleet.
    """

    workers: tuple[DesiredWorker, ...] = ()
    authoritative: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Actual:
    """One running worker, as far as the comparison needs it."""

    model: str
    by_hand: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do now; doing it twice does no harm."""

    start: tuple[DesiredWorker, ...]
    stop: tuple[str, ...]


def compare(desired: Desired, running: Mapping[str, Actual], *, resting: Iterable[str]) -> Plan:
    """Return what brings the host nearer to what the queen wants.

    Args:
        desired: What should be.
        running: The processes that exist, by worker id.
        resting: Workers that ended or could not start, and that are not to be tried again now.

    A worker that was started by hand is left alone whatever the queen says. One that should drain is left alone too:
    the queen gives it no new work by itself, and draining it here would end its process.
    """
    resting_ids = frozenset(resting)
    start: list[DesiredWorker] = []
    stop: list[str] = []
    named: set[str] = set()
    for wanted in desired.workers:
        named.add(wanted.worker_id)
        found = running.get(wanted.worker_id)
        if found is None:
            if wanted.state is DesiredState.RUNNING and wanted.worker_id not in resting_ids:
                start.append(wanted)
        elif not found.by_hand:
            is_other = wanted.state is DesiredState.RUNNING and found.model != wanted.model
            if wanted.state is DesiredState.STOPPED or is_other:
                stop.append(wanted.worker_id)
    if desired.authoritative:
        stop += [each for each, found in running.items() if each not in named and not found.by_hand]
    return Plan(start=tuple(start), stop=tuple(stop))
