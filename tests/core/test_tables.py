"""The two state machines are their tables: every legal move moves, every other raises and changes nothing."""

from dataclasses import astuple, replace

import pytest
from beeyard_core import job as jobs
from beeyard_core import lease as leases
from beeyard_core.ids import Epoch, JobId, ModelName, WorkerId, lease_id_of
from beeyard_core.job import IllegalMove, JobState, JobVerb
from beeyard_core.lease import Lease, LeaseState, LeaseVerb

from tests.support.core_values import START, job_of

JOB_MOVES = [(state, verb) for state in JobState for verb in JobVerb]
LEASE_MOVES = [(state, verb) for state in LeaseState for verb in LeaseVerb]


def lease_in(state: LeaseState) -> Lease:
    return Lease(
        lease_id=lease_id_of(Epoch(7)),
        epoch=Epoch(7),
        job_id=JobId("j1"),
        worker_id=WorkerId("w1"),
        model=ModelName("m"),
        attempt=1,
        kv_tokens=30,
        offered_at=START,
        state=state,
    )


@pytest.mark.parametrize(("state", "verb"), JOB_MOVES)
def test_a_job_makes_the_moves_of_its_table_and_no_other(state: JobState, verb: JobVerb) -> None:
    job = replace(job_of("j1", 1), state=state)
    before = astuple(job)
    target = jobs.TRANSITIONS[state].get(verb)
    if target is not None:
        job.move(verb)
        assert job.state is target
        assert astuple(replace(job, state=state)) == before
    else:
        with pytest.raises(IllegalMove, match=f"that is {state.value} cannot {verb.value}"):
            job.move(verb)
        assert astuple(job) == before


@pytest.mark.parametrize(("state", "verb"), LEASE_MOVES)
def test_a_lease_makes_the_moves_of_its_table_and_no_other(
    state: LeaseState, verb: LeaseVerb
) -> None:
    lease = lease_in(state)
    before = astuple(lease)
    target = leases.TRANSITIONS[state].get(verb)
    if target is not None:
        lease.move(verb)
        assert lease.state is target
        assert astuple(replace(lease, state=state)) == before
    else:
        with pytest.raises(IllegalMove, match=f"that is {state.value} cannot {verb.value}"):
            lease.move(verb)
        assert astuple(lease) == before


def test_every_state_is_in_its_table() -> None:
    assert set(jobs.TRANSITIONS) == set(JobState)
    assert set(leases.TRANSITIONS) == set(LeaseState)


def test_what_is_terminal_follows_from_the_tables() -> None:
    assert {state.value for state in jobs.TERMINAL} == {
        "completed",
        "failed",
        "expired",
        "cancelled",
    }
    assert {state.value for state in leases.TERMINAL} == {"released", "expired"}
    for state in JobState:
        assert replace(job_of("j1", 1), state=state).is_ended == (state in jobs.TERMINAL)


def test_every_state_can_be_reached_and_every_other_can_end() -> None:
    for table, first in (
        (jobs.TRANSITIONS, JobState.QUEUED),
        (leases.TRANSITIONS, LeaseState.OFFERED),
    ):
        reached = {first}
        for _ in table:
            reached |= {to for state in reached for to in table[state].values()}  # type: ignore[index]
        assert reached == set(table)


@pytest.mark.parametrize("state", LeaseState)
def test_a_lease_counts_until_it_is_revoked_or_over(state: LeaseState) -> None:
    assert lease_in(state).is_current == (state in (LeaseState.OFFERED, LeaseState.ACTIVE))
