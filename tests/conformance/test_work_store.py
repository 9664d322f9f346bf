"""What every store promises about heavy work, whatever it is made of."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from beeyard_core.ids import Epoch, PoolId, WorkerId, WorkId
from beeyard_core.instant import Instant
from beeyard_core.job import Priority
from beeyard_core.work import Work, WorkLease, WorkSpec, WorkState
from beeyard_queen.store.memory import MemoryStore
from beeyard_queen.store.port import Batch, BatchInvalid, StoreUnavailable
from beeyard_queen.store.sqlite import SqliteStore
from beeyard_queen.store.work import Bodies, WorkFilter, WorkRow
from beeyard_queen.store.work_rows import work_of, work_row_of

from tests.support.core_values import START

Store = MemoryStore | SqliteStore


def work_row(sequence: int, **changes: object) -> WorkRow:
    """Queued work, named after its sequence unless `changes` say otherwise."""
    row = WorkRow(
        work_id=f"work-{sequence}",
        sequence=sequence,
        tenant_id="default",
        request_id="",
        digest=b"digest",
        kind="backup",
        state="queued",
        is_ended=False,
        created_ms=1_700_000_000_000 + sequence,
        ended_ms=0,
        epoch=0,
        details='{"units":5}',
    )
    return replace(row, **changes)  # type: ignore[arg-type]


def ended(row: WorkRow, **changes: object) -> WorkRow:
    """The same work when it is over."""
    over = replace(row, state="completed", is_ended=True, ended_ms=1_700_000_100_000)
    return replace(over, **changes)  # type: ignore[arg-type]


def work_batch(*rows: WorkRow) -> Batch:
    return Batch(work={row.work_id: row for row in rows})


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "queen.sqlite")
    await store.open()
    yield store
    await store.close()


async def test_work_comes_back_as_it_was_saved_until_it_ends(store: Store) -> None:
    first, second = work_row(2, request_id="r", epoch=7), work_row(1)
    await store.commit(work_batch(first, second))
    await store.commit(work_batch(ended(second)))
    await store.close()
    restored = await store.open()
    assert restored.work == (first,)
    assert restored.work_sequence == 2
    assert await store.work.work("work-1") == ended(second)
    assert await store.work.work("work-3") is None


async def test_what_was_fixed_at_acceptance_stays(store: Store) -> None:
    row = work_row(1, request_id="r")
    await store.commit(work_batch(row))
    changed = replace(row, kind="other", tenant_id="other", digest=b"other", created_ms=1, epoch=3)
    await store.commit(work_batch(changed))
    assert await store.work.work("work-1") == replace(row, epoch=3)


async def test_bodies_are_kept_apart_and_a_payload_is_erased_when_the_work_ends(
    store: Store,
) -> None:
    await store.commit(work_batch(work_row(1, payload=b"to do")))
    await store.commit(work_batch(work_row(1, state="running", epoch=1)))
    assert await store.work.bodies("work-1") == Bodies(b"to do", b"")
    assert await store.work.work("work-1") == work_row(1, state="running", epoch=1)
    await store.commit(work_batch(ended(work_row(1, epoch=1, result=b"done"))))
    assert await store.work.bodies("work-1") == Bodies(b"", b"done")
    await store.commit(work_batch(ended(work_row(1, epoch=1))))
    assert await store.work.bodies("work-1") == Bodies(b"", b"done"), "saved again without it"
    assert await store.work.bodies("work-2") == Bodies(b"", b"")
    await store.commit(work_batch(ended(work_row(2, payload=b"at once"))))
    assert await store.work.bodies("work-2") == Bodies(b"", b"")


async def test_work_is_found_by_request_and_by_epoch(store: Store) -> None:
    row = work_row(1, request_id="r", epoch=4)
    await store.commit(work_batch(row, work_row(2), work_row(3)))
    assert await store.work.work_by_request("default", "r") == row
    assert await store.work.work_by_request("other", "r") is None
    assert await store.work.work_by_request("default", "") is None
    assert await store.work.work_by_epoch(4) == row
    assert await store.work.work_by_epoch(0) is None


async def test_work_is_listed_newest_first_by_every_condition(store: Store) -> None:
    rows = [
        work_row(1),
        work_row(2, kind="train"),
        work_row(3, tenant_id="other"),
        ended(work_row(4)),
    ]
    await store.commit(work_batch(*rows))

    async def listed(**conditions: object) -> list[int]:
        found = await store.work.works(WorkFilter(**conditions))  # type: ignore[arg-type]
        return [row.sequence for row in found]

    assert await listed() == [4, 3, 2, 1]
    assert await listed(limit=2) == [4, 3]
    assert await listed(before_sequence=3) == [2, 1]
    assert await listed(states=("queued",)) == [3, 2, 1]
    assert await listed(states=("queued", "completed"), tenant_id="default") == [4, 2, 1]
    assert await listed(kind="train") == [2]
    assert await listed(kind="train", tenant_id="other") == []


async def test_a_batch_that_contradicts_what_is_stored_is_refused_whole(store: Store) -> None:
    await store.commit(work_batch(work_row(1, request_id="r")))
    for false in (work_row(1, work_id="w"), work_row(2, request_id="r")):
        with pytest.raises(BatchInvalid):
            await store.commit(work_batch(work_row(9), false))
    assert await store.work.work("work-9") is None


async def test_ended_work_is_forgotten_and_its_number_never_given_again(store: Store) -> None:
    await store.commit(work_batch(work_row(1), ended(work_row(2)), ended(work_row(3), ended_ms=9)))
    assert await store.forget(ended_before_ms=10) == 1
    assert await store.forget(ended_before_ms=1_800_000_000_000) == 1
    assert [row.sequence for row in await store.work.works(WorkFilter())] == [1]
    await store.close()
    assert (await store.open()).work_sequence == 3


async def test_a_closed_store_can_be_asked_nothing(store: Store) -> None:
    await store.close()
    with pytest.raises(StoreUnavailable):
        await store.work.work("work-1")


# --- Rows ---


def work(**changes: object) -> Work:
    made = Work(
        work_id=WorkId("work-1"),
        spec=WorkSpec(
            kind="train",
            units=40,
            priority=Priority.BATCH,
            labels=(("a", "1"),),
            unique_key="nightly",
            deadline_ms=60_000,
            max_attempts=5,
        ),
        sequence=3,
        accepted_at=START,
        request_id="r",
        digest=b"d",
        deadline_at_ms=START.mono_ms + 60_000,
        attempt=2,
        failure="the last attempt broke",
        progress=0.5,
        message="half",
        measurements={"files": 3.0},
        leased_at=START.later(1_000),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def lease() -> WorkLease:
    return WorkLease(
        lease_id="lease-9",  # type: ignore[arg-type]
        epoch=Epoch(9),
        work_id=WorkId("work-1"),
        holder=WorkerId("w"),
        pool_id=PoolId("p1"),
        units=40,
        granted_at=START.later(1_000),
        expires_at_ms=START.mono_ms + 16_000,
        ttl_ms=15_000,
        request_id="g",
    )


@pytest.mark.parametrize(
    "kept",
    [
        work(state=WorkState.QUEUED),
        work(state=WorkState.RUNNING, epoch=Epoch(9), lease=lease()),
        work(
            state=WorkState.COMPLETED,
            epoch=Epoch(9),
            is_released=True,
            ended_at=START.later(5_000),
            failure="",
        ),
    ],
    ids=lambda kept: kept.state.value,
)
def test_work_survives_its_row(kept: Work) -> None:
    assert work_of(work_row_of(kept), START.later(9_000)) == kept


def test_times_of_a_row_are_placed_before_the_new_queens_present() -> None:
    kept = work(state=WorkState.RUNNING, epoch=Epoch(9), lease=lease())
    reboot = Instant(mono_ms=500, wall_ms=START.wall_ms + 11_000)
    found = work_of(work_row_of(kept), reboot)
    assert found.accepted_at == Instant(-10_500, START.wall_ms)
    assert found.deadline_at_ms == 49_500


def test_a_row_of_another_version_is_read_as_far_as_it_is_known() -> None:
    found = work_of(work_row(1, details='{"units":5,"colour":"blue"}'), START)
    assert (found.spec.units, found.spec.priority) == (5, Priority.NORMAL)
