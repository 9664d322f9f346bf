"""What every store promises the queen, whatever it is made of."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from beeyard_core import limits
from beeyard_queen.store.memory import MemoryStore
from beeyard_queen.store.port import (
    Batch,
    BatchInvalid,
    JobFilter,
    JobRow,
    StoreRefused,
    StoreUnavailable,
)
from beeyard_queen.store.scales import ScaleRow
from beeyard_queen.store.sessions import SessionRow
from beeyard_queen.store.sqlite import SqliteStore

from tests.support.store_rows import ended_row, job_row, jobs_batch, tokens_row

Store = MemoryStore | SqliteStore


def ids_of(rows: object) -> list[str]:
    assert isinstance(rows, list | tuple)
    return [row.job_id for row in rows]


@pytest.fixture(params=["memory", "sqlite"])
async def closed_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "queen.sqlite")
    yield store
    await store.close()


@pytest.fixture
async def store(closed_store: Store) -> Store:
    await closed_store.open()
    return closed_store


async def reopened(store: Store) -> tuple[JobRow, ...]:
    await store.close()
    return (await store.open()).jobs


# --- Opening ---


async def test_a_new_store_is_empty(closed_store: Store) -> None:
    restored = await closed_store.open()
    assert (restored.jobs, restored.epoch, restored.sequence, restored.models) == ((), 0, 0, ())


async def test_an_open_store_is_refused_to_a_second_queen(store: Store) -> None:
    with pytest.raises(StoreRefused, match="in use by another queen"):
        await store.open()
    await store.commit(jobs_batch(job_row(1)))
    assert ids_of(await reopened(store)) == ["job-1"]


async def test_closing_twice_is_closing_once(store: Store) -> None:
    await store.close()
    await store.close()


async def test_a_closed_store_is_unavailable(store: Store) -> None:
    await store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.commit(jobs_batch(job_row(1)))
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.job("job-1")


# --- Committing ---


async def test_every_field_of_a_job_comes_back(store: Store) -> None:
    row = job_row(
        7,
        tenant_id="acme",
        session_id="chat-1",
        request_id="req-7",
        digest=b"\x00\xff" * 16,
        priority=1,
        state="running",
        spec='{"prompt_tokens":3,"labels":[["team","bees & hives"]]}',
        expires_ms=1_700_000_060_000,
        attempt=2,
        epoch=2**53 + 1,
        worker_id="worker-ü",
        next_index=5,
        leased_ms=1,
        first_token_ms=2,
        result='{"decision":{}}',
    )
    await store.commit(jobs_batch(row))
    assert await store.job("job-7") == row
    assert await reopened(store) == (row,)


async def test_a_later_row_of_a_job_replaces_the_earlier(store: Store) -> None:
    await store.commit(jobs_batch(job_row(1)))
    leased = job_row(1, state="leased", attempt=1, epoch=9, worker_id="w1", leased_ms=5)
    await store.commit(jobs_batch(leased))
    assert await store.job("job-1") == leased
    assert ids_of(await store.jobs(JobFilter())) == ["job-1"]


async def test_what_is_fixed_at_acceptance_stays(store: Store) -> None:
    first = job_row(1, request_id="r")
    await store.commit(jobs_batch(first))
    later = first._replace(
        state="leased", sequence=9, tenant_id="b", request_id="s", digest=b"", created_ms=1
    )
    await store.commit(jobs_batch(later))
    assert await store.job("job-1") == first._replace(state="leased")
    assert await store.job_by_request("b", "s") is None


async def test_a_committed_batch_may_be_committed_again(store: Store) -> None:
    batch = jobs_batch(job_row(1, request_id="r"), job_row(2))
    batch.prompts["job-1"] = b"prompt"
    batch.tokens.append(tokens_row("job-2", 0, ["a", "b"]))
    batch.models.append("gemma")
    batch.epoch = 4
    await store.commit(batch)
    await store.commit(batch)
    assert ids_of(await store.jobs(JobFilter())) == ["job-2", "job-1"]
    assert await store.tokens("job-2") == batch.tokens
    assert await store.prompts(["job-1"]) == {"job-1": b"prompt"}


async def test_an_empty_batch_commits(store: Store) -> None:
    assert Batch().is_empty
    await store.commit(Batch())


@pytest.mark.parametrize("fault", ["tokens", "prompt", "sequence", "request", "twice"])
async def test_nothing_of_a_batch_that_contradicts_itself_is_kept(store: Store, fault: str) -> None:
    await store.commit(jobs_batch(job_row(1, request_id="r")))
    batch = jobs_batch(job_row(2))
    batch.prompts["job-2"] = b"two"
    batch.tokens.append(tokens_row("job-1", 0, ["a"]))
    batch.models.append("gemma")
    batch.epoch = 5
    if fault == "tokens":
        batch.tokens.append(tokens_row("job-404", 0, ["a"]))
    elif fault == "prompt":
        batch.prompts["job-404"] = b"?"
    elif fault == "sequence":
        batch.jobs["job-3"] = job_row(1, job_id="job-3")
    elif fault == "request":
        batch.jobs["job-3"] = job_row(3, request_id="r")
    else:
        batch.jobs["job-3"] = job_row(3, request_id="s")
        batch.jobs["job-4"] = job_row(4, request_id="s")
    with pytest.raises(BatchInvalid):
        await store.commit(batch)
    assert await store.job("job-2") is None
    assert await store.prompts(["job-2"]) == {}
    assert await store.tokens("job-1") == []
    await store.close()
    restored = await store.open()
    assert (ids_of(restored.jobs), restored.epoch, restored.models) == (["job-1"], 0, ())


# --- Prompts ---


async def test_prompts_come_back_as_they_went_in(store: Store) -> None:
    batch = jobs_batch(job_row(1), job_row(2), job_row(3))
    batch.prompts = {"job-1": b"\x00\x01", "job-2": b"", "job-3": b"x" * limits.PROMPT_BYTES_MAX}
    await store.commit(batch)
    assert await store.prompts(["job-3", "job-1", "job-404"]) == {
        "job-1": b"\x00\x01",
        "job-3": b"x" * limits.PROMPT_BYTES_MAX,
    }
    await store.close()
    await store.open()
    assert await store.prompts(["job-2"]) == {"job-2": b""}


async def test_the_prompt_is_erased_when_its_job_ends(store: Store) -> None:
    batch = jobs_batch(job_row(1), job_row(2))
    batch.prompts = {"job-1": b"one", "job-2": b"two"}
    await store.commit(batch)
    await store.commit(jobs_batch(ended_row(1)))
    assert await store.prompts(["job-1", "job-2"]) == {"job-2": b"two"}


async def test_a_job_that_ends_in_its_first_batch_leaves_no_prompt(store: Store) -> None:
    batch = jobs_batch(ended_row(1))
    batch.prompts["job-1"] = b"one"
    await store.commit(batch)
    assert await store.prompts(["job-1"]) == {}


# --- Output ---


async def test_output_comes_back_in_order_and_without_gaps(store: Store) -> None:
    runs = [
        tokens_row("job-1", 0, ["The", " honey"]),
        tokens_row("job-1", 2, [" bee", ""]),
        tokens_row("job-1", 4, ["\N{HONEYBEE}"]),
    ]
    other = tokens_row("job-2", 0, ["else"])
    batch = jobs_batch(job_row(1), job_row(2))
    batch.tokens = [runs[0]]
    await store.commit(batch)
    await store.commit(Batch(tokens=[other, runs[1]]))
    await store.commit(Batch(tokens=[runs[2]], jobs={"job-1": ended_row(1)}))
    kept = await store.tokens("job-1")
    assert list(kept) == runs
    assert [row.first_index + row.count for row in kept][:-1] == [r.first_index for r in kept][1:]
    assert "".join(row.text for row in kept) == "The honey bee\N{HONEYBEE}"
    assert await store.tokens("job-2") == [other]
    assert await store.tokens("job-404") == []
    # From the row with a token on, and no more rows than asked for.
    assert list(await store.tokens("job-1", from_index=3)) == runs[1:]
    assert list(await store.tokens("job-1", from_index=1, rows_max=2)) == runs[:2]
    assert list(await store.tokens("job-1", from_index=4, rows_max=2)) == runs[2:]
    assert list(await store.tokens("job-1", from_index=5)) == []


async def test_output_without_token_ids_comes_back(store: Store) -> None:
    run = replace(tokens_row("job-1", 0, ["a", "b"]), ids=b"")
    await store.commit(Batch(jobs={"job-1": job_row(1)}, tokens=[run]))
    assert await store.tokens("job-1") == [run]


# --- Looking up ---


async def test_a_job_is_found_by_its_idempotency_key(store: Store) -> None:
    await store.commit(
        jobs_batch(
            job_row(1, tenant_id="a", request_id="r"),
            ended_row(2, tenant_id="b", request_id="r"),
            job_row(3, tenant_id="a"),
            job_row(4, tenant_id="a"),
        )
    )
    found = [await store.job_by_request(tenant, "r") for tenant in ("a", "b", "c")]
    assert [row.job_id if row else None for row in found] == ["job-1", "job-2", None]
    # No key is not a key.
    assert await store.job_by_request("a", "") is None
    assert await store.job("job-404") is None


FLEET = (
    job_row(1, tenant_id="a", model="m1", state="queued"),
    ended_row(2, tenant_id="a", model="m2", state="completed"),
    job_row(3, tenant_id="b", model="m1", state="running"),
    ended_row(4, tenant_id="b", model="m1", state="failed"),
    job_row(5, tenant_id="a", model="m1", state="queued"),
    ended_row(6, tenant_id="a", model="m1", state="completed"),
)


@pytest.mark.parametrize(
    ("job_filter", "expected"),
    [
        (JobFilter(), [6, 5, 4, 3, 2, 1]),
        (JobFilter(limit=2), [6, 5]),
        (JobFilter(limit=2, before_sequence=5), [4, 3]),
        (JobFilter(before_sequence=1), []),
        (JobFilter(limit=0), []),
        (JobFilter(states=("queued",)), [5, 1]),
        (JobFilter(states=("queued", "completed")), [6, 5, 2, 1]),
        (JobFilter(states=("queued", "completed"), limit=3), [6, 5, 2]),
        (JobFilter(states=("queued", "completed"), limit=3, before_sequence=6), [5, 2, 1]),
        (JobFilter(states=("expired",)), []),
        (JobFilter(tenant_id="b"), [4, 3]),
        (JobFilter(model="m2"), [2]),
        (JobFilter(tenant_id="a", model="m1", states=("queued", "completed"), limit=2), [6, 5]),
        (JobFilter(tenant_id="a", model="m1", states=("running", "failed")), []),
    ],
)
async def test_jobs_are_listed_newest_first(
    store: Store, job_filter: JobFilter, expected: list[int]
) -> None:
    await store.commit(jobs_batch(*FLEET))
    assert [row.sequence for row in await store.jobs(job_filter)] == expected


async def test_paging_shows_every_job_once_while_new_ones_arrive(store: Store) -> None:
    await store.commit(jobs_batch(*map(job_row, range(1, 8))))
    seen: list[int] = []
    before = 0
    while page := await store.jobs(JobFilter(limit=3, before_sequence=before)):
        seen += [row.sequence for row in page]
        before = seen[-1]
        await store.commit(jobs_batch(job_row(100 + before)))
    assert seen == [7, 6, 5, 4, 3, 2, 1]


async def test_a_page_is_bounded_whatever_is_asked(store: Store) -> None:
    await store.commit(jobs_batch(*map(job_row, range(1, limits.LIST_PAGE_MAX + 10))))
    assert len(await store.jobs(JobFilter(limit=10**9))) == limits.LIST_PAGE_MAX + 1


async def test_a_reader_sees_whole_batches_only(store: Store) -> None:
    """Lookups run while commits run, and never see half of one."""

    async def write() -> None:
        for number in range(1, 41, 2):
            await store.commit(jobs_batch(job_row(number), job_row(number + 1)))

    writing = asyncio.create_task(write())
    while not writing.done():
        assert len(await store.jobs(JobFilter())) % 2 == 0
        await asyncio.sleep(0)
    await writing
    assert len(await store.jobs(JobFilter())) == 40


# --- Restoring ---


async def test_a_starting_queen_finds_what_is_unfinished_in_order(store: Store) -> None:
    await store.commit(jobs_batch(job_row(3), job_row(1), ended_row(2), job_row(10)))
    await store.commit(jobs_batch(ended_row(10), job_row(4, state="running")))
    assert [row.sequence for row in await reopened(store)] == [1, 3, 4]


async def test_epochs_only_grow(store: Store) -> None:
    for epoch in (5, 3, 0):
        await store.commit(Batch(epoch=epoch))
    await store.close()
    assert (await store.open()).epoch == 5


async def test_models_are_remembered_in_the_order_in_which_they_came(store: Store) -> None:
    await store.commit(Batch(models=["zephyr", "gemma"]))
    await store.commit(Batch(models=["gemma", "abel"]))
    await store.close()
    assert (await store.open()).models == ("zephyr", "gemma", "abel")


async def test_what_was_said_of_a_models_workers_is_remembered_until_it_is_taken_back(
    store: Store,
) -> None:
    whole, bare = ScaleRow("gemma", 1, 4, 60_000), ScaleRow("abel", 0, None, None)
    await store.commit(Batch(scales={"gemma": ScaleRow("gemma", 9, 9, 9), "zephyr": whole}))
    await store.commit(Batch(scales={"gemma": whole, "abel": bare, "zephyr": None, "none": None}))
    await store.close()
    assert (await store.open()).scales == (bare, whole)


async def test_what_sessions_used_is_remembered_until_they_have_begun_anew(store: Store) -> None:
    day_ms = limits.SESSION_KEPT_MS
    old, late = SessionRow("ann", "s", 7, 1, 99), SessionRow("ben", "s", 9, 2, 100)
    changed = SessionRow("ann", "t", 40, 3, 150)
    await store.commit(Batch(sessions=[late, old, SessionRow("ann", "t", 1, 1, 1)]))
    await store.commit(Batch(sessions=[changed]))
    await store.close()
    assert (await store.open()).sessions == (old, late, changed)
    await store.forget(ended_before_ms=100 + day_ms)
    await store.close()
    assert (await store.open()).sessions == (late, changed)


async def test_no_more_sessions_come_back_than_a_queen_remembers(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SESSIONS_KEPT_MAX", 2)
    rows = [SessionRow("ann", f"s{number}", number, 0, number) for number in range(4)]
    await store.commit(Batch(sessions=rows))
    await store.close()
    assert list((await store.open()).sessions) == rows[2:]


async def test_the_last_sequence_is_remembered_even_of_forgotten_jobs(store: Store) -> None:
    await store.commit(jobs_batch(job_row(1), ended_row(8, ended_ms=5)))
    assert await store.forget(ended_before_ms=6) == 1
    await store.close()
    assert (await store.open()).sequence == 8


# --- Forgetting ---


async def test_only_jobs_that_ended_before_are_forgotten_with_everything_of_them(
    store: Store,
) -> None:
    batch = jobs_batch(
        job_row(1),
        ended_row(2, ended_ms=99, request_id="r"),
        ended_row(3, ended_ms=100),
    )
    batch.tokens = [tokens_row("job-2", 0, ["a"]), tokens_row("job-3", 0, ["b"])]
    await store.commit(batch)
    assert await store.forget(ended_before_ms=100) == 1
    assert ids_of(await store.jobs(JobFilter())) == ["job-3", "job-1"]
    assert await store.job("job-2") is None
    assert await store.job_by_request("default", "r") is None
    assert await store.tokens("job-2") == []
    assert await store.tokens("job-3") == [batch.tokens[1]]
    # Its key may be used again.
    await store.commit(jobs_batch(job_row(9, request_id="r")))
    assert await store.forget(ended_before_ms=100) == 0


async def test_one_call_forgets_a_bounded_number_oldest_end_first(store: Store) -> None:
    count = limits.STORE_FORGET_JOBS_MAX + 3
    await store.commit(
        jobs_batch(*(ended_row(n, ended_ms=10_000 - n) for n in range(1, count + 1)))
    )
    assert await store.forget(ended_before_ms=20_000) == limits.STORE_FORGET_JOBS_MAX
    assert [row.sequence for row in await store.jobs(JobFilter())] == [3, 2, 1]
    assert await store.forget(ended_before_ms=20_000) == 3


# --- Faults that every store can be put through ---


async def test_the_memory_store_fails_as_often_as_it_is_told_and_keeps_nothing() -> None:
    store = MemoryStore()
    await store.open()
    store.fail_next_commits(2)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await store.commit(jobs_batch(job_row(1)))
        assert await store.job("job-1") is None
    await store.commit(jobs_batch(job_row(1)))
    assert await store.job("job-1") == job_row(1)
