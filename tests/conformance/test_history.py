"""What every store remembers of what has ended, whatever it is made of."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from beeyard_core import limits
from beeyard_core.history import JobRecord
from beeyard_core.job import JobState, Priority
from beeyard_core.lease import LeaseState
from beeyard_queen.store.history import HistoryFilter, estimate_of, estimate_text
from beeyard_queen.store.memory import MemoryStore
from beeyard_queen.store.port import Batch, StoreUnavailable
from beeyard_queen.store.sqlite import SqliteStore

from tests.support.history_records import ESTIMATE, job_record, lease_record

Store = MemoryStore | SqliteStore
END = 1_700_000_001_000
EVERYTHING = HistoryFilter()


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "queen.sqlite")
    await store.open()
    yield store
    await store.close()


def numbered(number: int, **changes: object) -> JobRecord:
    """A job that ended so many milliseconds after the first."""
    named: dict[str, object] = {"sequence": number, "job_id": f"job-{number}"}
    return job_record(**(named | {"ended_ms": END + number} | changes))


def numbers(records: Sequence[JobRecord]) -> list[int]:
    return [record.sequence for record in records]


async def test_every_field_of_a_record_comes_back_also_after_a_restart(store: Store) -> None:
    job = job_record(
        state=JobState.EXPIRED, reason="DEADLINE_EXCEEDED", priority=Priority.BATCH, prefill_ms=0.25
    )
    other = numbered(2, estimate=None)
    lease = lease_record(ending=LeaseState.EXPIRED, was_revoked=True)
    await store.commit(Batch(job_records=[job, other], lease_records=[lease]))
    await store.close()
    await store.open()
    assert list(await store.history.job_records(EVERYTHING)) == [other, job]
    assert list(await store.history.lease_records(EVERYTHING)) == [lease]


async def test_a_batch_that_is_committed_again_changes_nothing(store: Store) -> None:
    batch = Batch(job_records=[job_record()], lease_records=[lease_record()])
    await store.commit(batch)
    await store.commit(batch)
    assert len(await store.history.job_records(EVERYTHING)) == 1
    assert len(await store.history.lease_records(EVERYTHING)) == 1


async def test_records_are_found_by_tenant_model_and_time_the_newest_first(store: Store) -> None:
    records = [numbered(n, tenant_id="ab"[n % 2], model="xyz"[n % 3]) for n in range(6)]
    await store.commit(Batch(job_records=records))

    async def found(**wanted: object) -> list[int]:
        return numbers(await store.history.job_records(HistoryFilter(**wanted)))  # type: ignore[arg-type]

    assert await found() == [5, 4, 3, 2, 1, 0]
    assert await found(tenant_id="a") == [4, 2, 0]
    assert await found(model="x") == [3, 0]
    assert await found(tenant_id="b", model="y") == [1]
    assert await found(since_ms=END + 3) == [5, 4, 3]
    assert await found(until_ms=END + 3) == [2, 1, 0]
    assert await found(limit=2) == [5, 4]
    assert await found(tenant_id="nobody") == []


async def test_leases_are_found_by_job(store: Store) -> None:
    leases = [
        lease_record(epoch=number, job_id=f"job-{number % 2}", ended_ms=END + number)
        for number in range(1, 5)
    ]
    await store.commit(Batch(lease_records=leases))
    found = await store.history.lease_records(HistoryFilter(job_id="job-1"))
    assert [lease.epoch for lease in found] == [3, 1]


async def test_what_is_too_old_is_forgotten_and_nothing_else(store: Store) -> None:
    await store.commit(
        Batch(job_records=[numbered(n) for n in range(5)], lease_records=[lease_record()])
    )
    gone = await store.forget_history(ended_before_ms=END + 2, rows_max=100)
    # Two jobs, and the lease.
    assert gone == 3
    assert numbers(await store.history.job_records(EVERYTHING)) == [4, 3, 2]


async def test_no_more_rows_are_kept_than_may_be(store: Store) -> None:
    await store.commit(Batch(job_records=[numbered(n) for n in range(7)]))
    await store.forget_history(ended_before_ms=0, rows_max=4)
    assert numbers(await store.history.job_records(EVERYTHING)) == [6, 5, 4, 3]


async def test_forgetting_is_bounded(store: Store) -> None:
    many = limits.STORE_FORGET_JOBS_MAX + 5
    await store.commit(Batch(job_records=[numbered(n) for n in range(many)]))
    gone = await store.forget_history(ended_before_ms=END + 2 * many, rows_max=2 * many)
    assert gone == limits.STORE_FORGET_JOBS_MAX
    assert numbers(await store.history.job_records(EVERYTHING)) == list(
        range(many - 1, limits.STORE_FORGET_JOBS_MAX - 1, -1)
    )


async def test_a_closed_store_remembers_nothing_for_now(store: Store) -> None:
    await store.close()
    with pytest.raises(StoreUnavailable):
        await store.history.job_records(EVERYTHING)


def test_a_prediction_of_other_levels_than_todays_is_left_out() -> None:
    text = estimate_text(ESTIMATE)
    assert estimate_of(text) == ESTIMATE
    assert estimate_of(text.replace("0.05", "0.01")) is None
    assert estimate_of("") is None
