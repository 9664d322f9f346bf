"""`LeaseService` at the wire: what submitters, holders and operators are told, and what survives the queen."""

import asyncio
import copy

import grpc
import pytest
from beeyard.pool.v1 import snapshot_pb2
from beeyard.queen.v1 import job_pb2
from beeyard.queen.v1 import lease_service_pb2 as pb
from beeyard_core import limits
from beeyard_core.fleet import HostLoad
from beeyard_queen.ingress.pool_wire import pool_report_of
from beeyard_queen.store.memory import MemoryStore

from tests.support.eventually import eventually
from tests.support.gated_store import GatedStore
from tests.support.lease_requests import report, struct, submission, told
from tests.support.running_queen import RunningQueen, running_queen
from tests.support.told import refusal

STALE = (grpc.StatusCode.ABORTED, "STALE_EPOCH")
TTL_MS = limits.WORK_LEASE_TTL_MS


@pytest.fixture
async def yard(queen: RunningQueen) -> RunningQueen:
    """A queen with an idle host."""
    await report(queen)
    return queen


async def submit(queen: RunningQueen, **changes: object) -> pb.Work:
    return await queen.leases.SubmitWork(submission(**changes))


async def request(queen: RunningQueen, **changes: object) -> pb.RequestLeaseResponse:
    wish = pb.RequestLeaseRequest(worker_id="w1")
    wish.MergeFrom(pb.RequestLeaseRequest(**changes))  # type: ignore[arg-type]
    return await queen.leases.RequestLease(wish)


async def granted(queen: RunningQueen, **changes: object) -> pb.LeaseGranted:
    answer = await request(queen, **changes)
    assert answer.HasField("granted"), answer
    return answer.granted


async def denial(queen: RunningQueen, **changes: object) -> str:
    answer = await request(queen, **changes)
    assert answer.HasField("denied"), answer
    assert answer.denied.retry_after_ms > 0
    assert answer.denied.message
    return pb.LeaseDenied.Reason.Name(answer.denied.reason).removeprefix("REASON_")


def claim(lease: pb.Lease) -> dict[str, object]:
    return {"lease_id": lease.lease_id, "epoch": lease.epoch, "worker_id": lease.worker_id}


def beat(lease: pb.Lease) -> pb.HeartbeatRequest:
    return pb.HeartbeatRequest(**claim(lease))  # type: ignore[arg-type]


def completed(lease: pb.Lease, **result: object) -> pb.ReleaseLeaseRequest:
    done = pb.WorkCompleted(result=struct(**result) if result else None)
    return pb.ReleaseLeaseRequest(**claim(lease), completed=done)  # type: ignore[arg-type]


def failed(lease: pb.Lease, message: str = "no disk", *, retriable: bool) -> pb.ReleaseLeaseRequest:
    broke = pb.WorkFailed(message=message, retriable=retriable)
    return pb.ReleaseLeaseRequest(**claim(lease), failed=broke)  # type: ignore[arg-type]


# --- The whole way ---


async def test_work_goes_from_submission_to_its_result(yard: RunningQueen) -> None:
    work = await submit(
        yard,
        priority=job_pb2.PRIORITY_BATCH,
        payload=struct(folder="/data"),
        labels={"team": "a"},
        deadline_ms=60_000,
    )
    assert (work.state, work.kind, work.capacity_units) == (pb.WORK_STATE_QUEUED, "backup", 10)
    assert (work.priority, work.tenant_id) == (job_pb2.PRIORITY_BATCH, "default")
    assert not work.HasField("payload"), "only the holder is sent it"
    assert work.expire_time.ToMilliseconds() - work.create_time.ToMilliseconds() == 60_000

    grant = await granted(yard)
    lease = grant.lease
    assert grant.work.work_id == lease.work_id == work.work_id
    assert dict(grant.work.payload) == {"folder": "/data"}
    assert (lease.pool_id, lease.capacity_units, lease.ttl_ms) == ("p1", 10, TTL_MS)
    assert lease.heartbeat_interval_ms * 3 <= lease.ttl_ms
    assert lease.expire_time.ToMilliseconds() - lease.create_time.ToMilliseconds() == TTL_MS
    assert not lease.HasField("last_heartbeat_time")

    renewed = (await yard.leases.Heartbeat(beat(lease))).lease
    assert renewed.HasField("last_heartbeat_time")
    progress = pb.ReportProgressRequest(
        **claim(lease),  # type: ignore[arg-type]
        progress=0.5,
        message="half",
        measurements={"files": 12},
    )
    await yard.leases.ReportProgress(progress)
    running = await yard.leases.GetWork(pb.GetWorkRequest(work_id=work.work_id))
    assert (running.state, running.progress) == (pb.WORK_STATE_RUNNING, 0.5)
    assert (running.message, dict(running.measurements)) == ("half", {"files": 12.0})
    assert running.lease.lease_id == lease.lease_id
    assert not running.HasField("payload")

    ended = await yard.leases.ReleaseLease(completed(lease, files=24))
    assert (ended.state, dict(ended.result)) == (pb.WORK_STATE_COMPLETED, {"files": 24.0})
    assert not ended.HasField("lease")
    assert ended.HasField("end_time")
    assert await yard.leases.ReleaseLease(completed(lease)) == ended, "the same release again"
    assert await yard.leases.GetWork(pb.GetWorkRequest(work_id=work.work_id)) == ended


async def test_broken_work_waits_again_or_fails_as_its_holder_says(yard: RunningQueen) -> None:
    work = await submit(yard)
    again = await yard.leases.ReleaseLease(failed((await granted(yard)).lease, retriable=True))
    assert (again.state, again.failure, again.attempt) == (pb.WORK_STATE_QUEUED, "no disk", 1)
    last = await yard.leases.ReleaseLease(failed((await granted(yard)).lease, "", retriable=False))
    assert (last.state, last.failure) == (pb.WORK_STATE_FAILED, "its holder gave no reason")
    assert last.work_id == work.work_id


# --- Denials ---


async def test_a_denial_says_why_and_when_to_ask_again(yard: RunningQueen) -> None:
    assert await denial(yard) == "NO_WORK"
    await submit(yard, capacity_units=60)
    await submit(yard, kind="train", capacity_units=60)
    assert await denial(yard, capacity_units_max=20) == "TOO_LARGE"
    await granted(yard, kinds=["backup"])
    assert await denial(yard, kinds=["train"]) == "NO_CAPACITY"
    await report(yard, HostLoad(cpu_percent=10.0, memory_percent=99.0))
    assert await denial(yard, kinds=["train"]) == "CAPACITY_GATED"


async def test_without_a_host_that_reports_nothing_is_leased(queen: RunningQueen) -> None:
    await submit(queen, priority=job_pb2.PRIORITY_INTERACTIVE)
    assert await denial(queen) == "CAPACITY_GATED"
    await report(queen)
    await granted(queen)


async def test_reports_that_stop_stop_the_leasing_until_they_go_on(yard: RunningQueen) -> None:
    await submit(yard, priority=job_pb2.PRIORITY_INTERACTIVE)
    await yard.clock.advance(limits.REPORT_STALE_MS + 250)
    assert await denial(yard) == "CAPACITY_GATED"
    await report(yard)
    await granted(yard)


async def test_a_host_that_the_caller_names_is_the_one_whose_units_are_used(
    yard: RunningQueen,
) -> None:
    await report(yard, host="p2")
    await submit(yard)
    assert await denial(yard, pool_id="elsewhere") == "CAPACITY_GATED"
    assert (await granted(yard, pool_id="p2")).lease.pool_id == "p2"


async def test_one_piece_of_work_can_be_asked_for(yard: RunningQueen) -> None:
    await submit(yard)
    own = await submit(yard)
    assert (await granted(yard, work_id=own.work_id)).work.work_id == own.work_id
    gone = await refusal(request(yard, work_id="work-none"))
    assert told(gone) == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")


# --- Idempotency ---


async def test_the_same_submission_is_the_same_work_also_after_it_ended(
    yard: RunningQueen,
) -> None:
    first = await submit(yard, request_id="r", payload=struct(a=1))
    assert await submit(yard, request_id="r", payload=struct(a=1)) == first
    conflict = await refusal(submit(yard, request_id="r", payload=struct(a=2)))
    assert told(conflict) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_CONFLICT")
    assert await submit(yard, request_id="r", payload=struct(a=2), tenant_id="other") != first
    await yard.leases.ReleaseLease(completed((await granted(yard)).lease))
    again = await submit(yard, request_id="r", payload=struct(a=1))
    assert (again.work_id, again.state) == (first.work_id, pb.WORK_STATE_COMPLETED)


async def test_work_with_a_unique_key_is_queued_once(yard: RunningQueen) -> None:
    first = await submit(yard, unique_key="nightly")
    assert (await submit(yard, unique_key="nightly")).work_id == first.work_id


async def test_the_same_request_for_a_lease_gets_the_same_lease(yard: RunningQueen) -> None:
    await submit(yard)
    await submit(yard)
    first = (await granted(yard, request_id="g")).lease
    assert (await granted(yard, request_id="g")).lease == first


# --- The fence ---


async def test_who_speaks_for_a_lease_must_hold_it_by_its_epoch(yard: RunningQueen) -> None:
    await submit(yard)
    lease = (await granted(yard)).lease
    other = pb.HeartbeatRequest(lease_id=lease.lease_id, epoch=lease.epoch, worker_id="w2")
    mismatch = await refusal(yard.leases.Heartbeat(other))
    assert told(mismatch) == (grpc.StatusCode.ABORTED, "LEASE_HOLDER_MISMATCH")
    old = pb.HeartbeatRequest(lease_id=lease.lease_id, epoch=lease.epoch + 1, worker_id="w1")
    assert told(await refusal(yard.leases.Heartbeat(old))) == STALE
    none = pb.HeartbeatRequest(lease_id="lease-99", epoch=99, worker_id="w1")
    missing = await refusal(yard.leases.Heartbeat(none))
    assert told(missing) == (grpc.StatusCode.NOT_FOUND, "LEASE_NOT_FOUND")


async def test_a_holder_that_was_silent_for_too_long_is_told_so(yard: RunningQueen) -> None:
    work = await submit(yard)
    stopped = (await granted(yard)).lease
    await yard.clock.advance(TTL_MS)
    await report(yard)
    successor = (await granted(yard, worker_id="w2")).lease
    for call in (
        yard.leases.Heartbeat(beat(stopped)),
        yard.leases.ReportProgress(pb.ReportProgressRequest(**claim(stopped))),  # type: ignore[arg-type]
        yard.leases.ReleaseLease(completed(stopped)),
        yard.leases.ReleaseLease(failed(stopped, retriable=True)),
    ):
        assert told(await refusal(call)) == STALE
    found = await yard.leases.GetWork(pb.GetWorkRequest(work_id=work.work_id))
    assert (found.lease.lease_id, found.attempt) == (successor.lease_id, 2)


# --- Operators ---


async def test_a_lease_can_be_revoked_once_and_its_holder_learns_it(yard: RunningQueen) -> None:
    await submit(yard)
    lease = (await granted(yard)).lease
    revocation = pb.RevokeLeaseRequest(lease_id=lease.lease_id, reason="reboot", requeue=True)
    work = await yard.leases.RevokeLease(revocation)
    assert (work.state, work.failure) == (pb.WORK_STATE_QUEUED, "revoked: reboot")
    assert await yard.leases.RevokeLease(revocation) == work
    assert (await yard.leases.GetCapacity(pb.GetCapacityRequest())).units_leased == 10
    assert told(await refusal(yard.leases.Heartbeat(beat(lease)))) == STALE
    assert (await yard.leases.GetCapacity(pb.GetCapacityRequest())).units_leased == 0
    none = await refusal(yard.leases.RevokeLease(pb.RevokeLeaseRequest(lease_id="lease-99")))
    assert told(none) == (grpc.StatusCode.NOT_FOUND, "LEASE_NOT_FOUND")


async def test_work_can_be_cancelled(yard: RunningQueen) -> None:
    work = await submit(yard)
    cancel = pb.CancelWorkRequest(work_id=work.work_id, reason="not needed")
    ended = await yard.leases.CancelWork(cancel)
    assert (ended.state, ended.failure) == (pb.WORK_STATE_FAILED, "cancelled: not needed")
    assert await yard.leases.CancelWork(pb.CancelWorkRequest(work_id=work.work_id)) == ended
    none = await refusal(yard.leases.CancelWork(pb.CancelWorkRequest(work_id="work-none")))
    assert told(none) == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")


async def test_capacity_tells_what_there_is_and_why(yard: RunningQueen) -> None:
    await report(yard, HostLoad(cpu_percent=75.0, memory_percent=20.0), host="p2")
    await submit(yard)
    await submit(yard, priority=job_pb2.PRIORITY_BATCH)
    await granted(yard, pool_id="p1")
    capacity = await yard.leases.GetCapacity(pb.GetCapacityRequest())
    assert (capacity.units_total, capacity.units_usable, capacity.units_leased) == (200, 160, 10)
    assert (capacity.busy_rating, capacity.fresh) == (2, True)
    assert [(q.priority, q.count, q.capacity_units) for q in capacity.queued] == [
        (job_pb2.PRIORITY_BATCH, 1, 10)
    ]
    factors = {factor.name: (factor.value, factor.points) for factor in capacity.factors}
    assert factors["cpu_percent"] == (75.0, 4)
    assert [(host.pool_id, host.busy_rating, host.units_usable) for host in capacity.hosts] == [
        ("p1", 0, 100),
        ("p2", 4, 60),
    ]


async def test_without_fresh_measurements_capacity_says_ten_and_what_is_missing(
    queen: RunningQueen,
) -> None:
    await queen.tick()
    capacity = await queen.leases.GetCapacity(pb.GetCapacityRequest())
    assert (capacity.units_total, capacity.units_usable) == (100, 0)
    assert (capacity.busy_rating, capacity.fresh) == (10, False)
    missing = {factor.name for factor in capacity.factors if not factor.HasField("value")}
    assert missing == {"cpu_percent", "memory_percent"}
    await report(queen, HostLoad(cpu_percent=None, memory_percent=10.0))
    (host,) = (await queen.leases.GetCapacity(pb.GetCapacityRequest())).hosts
    assert (host.busy_rating, host.fresh, host.units_usable) == (10, False, 0)


async def test_work_is_listed_page_by_page(yard: RunningQueen) -> None:
    ids = [(await submit(yard, kind=kind)).work_id for kind in ("a", "b", "a", "a")]
    await granted(yard, kinds=["b"])

    async def page(**conditions: object) -> pb.ListWorkResponse:
        return await yard.leases.ListWork(pb.ListWorkRequest(**conditions))  # type: ignore[arg-type]

    first = await page(page_size=3)
    assert [work.work_id for work in first.work] == ids[:0:-1]
    rest = await page(page_size=3, page_token=first.next_page_token)
    assert [work.work_id for work in rest.work] == ids[:1]
    assert not rest.next_page_token
    leased = await page(states=[pb.WORK_STATE_LEASED])
    assert [work.work_id for work in leased.work] == [ids[1]]
    assert leased.work[0].lease.worker_id == "w1"
    assert len((await page(kind="a")).work) == 3
    assert not (await page(tenant_id="nobody")).work


async def test_what_is_not_there_is_not_found(queen: RunningQueen) -> None:
    found = await refusal(queen.leases.GetWork(pb.GetWorkRequest(work_id="work-none")))
    assert told(found) == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")


# --- Restarts and outages ---


async def disk_of(queen: RunningQueen) -> MemoryStore:
    """Return what a `kill -9` at this instant would leave on the disk."""
    disk = copy.deepcopy(queen.store)
    await disk.close()
    return disk


async def test_work_and_leases_are_back_after_a_restart(yard: RunningQueen) -> None:
    held = await submit(yard, payload=struct(a=1), request_id="r")
    queued = await submit(yard, payload=struct(b=2))
    lease = (await granted(yard)).lease
    async with running_queen(await disk_of(yard)) as later:
        await report(later)
        await later.leases.Heartbeat(beat(lease))
        grant = await granted(later, worker_id="w2")
        assert (grant.work.work_id, dict(grant.work.payload)) == (queued.work_id, {"b": 2.0})
        assert grant.lease.epoch > lease.epoch
        assert (await submit(later, payload=struct(a=1), request_id="r")).work_id == held.work_id
        ended = await later.leases.ReleaseLease(completed(lease, done=True))
        assert (ended.work_id, dict(ended.result)) == (held.work_id, {"done": True})


async def test_a_release_whose_answer_was_lost_with_the_queen_is_answered_by_the_next(
    yard: RunningQueen,
) -> None:
    await submit(yard, request_id="r")
    lease = (await granted(yard)).lease
    ended = await yard.leases.ReleaseLease(completed(lease, done=True))
    async with running_queen(await disk_of(yard)) as later:
        assert await later.leases.ReleaseLease(completed(lease, done=True)) == ended
        assert told(await refusal(later.leases.Heartbeat(beat(lease)))) == STALE
        revocation = pb.RevokeLeaseRequest(lease_id=lease.lease_id)
        assert await later.leases.RevokeLease(revocation) == ended
        cancel = pb.CancelWorkRequest(work_id=ended.work_id)
        assert await later.leases.CancelWork(cancel) == ended
        assert await later.leases.GetWork(pb.GetWorkRequest(work_id=ended.work_id)) == ended
        assert (await submit(later, request_id="r")).work_id == ended.work_id
        conflict = await refusal(submit(later, request_id="r", kind="other"))
        assert told(conflict) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_CONFLICT")


async def test_nothing_is_acknowledged_that_is_not_on_disk() -> None:
    store = GatedStore()
    async with running_queen(store) as queen:
        await report(queen)
        store.shut()
        anonymous = asyncio.create_task(submit(queen))
        named = asyncio.create_task(submit(queen, kind="named", request_id="r"))
        await store.somebody_waits()
        assert not anonymous.done()
        await eventually(lambda: len(queen.queen._actor.work_calls._calls) == 2, "both wait")
        store.fail_all()
        for call in (anonymous, named):
            found = await refusal(call)
            assert told(found) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        # The writer sleeps before it tries again.
        await eventually(lambda: queen.clock.sleepers >= 1, "it waits")
        while not queen.queen.loop.is_store_healthy:
            await queen.clock.advance(limits.RECONNECT_MIN_MS)
        listing = pb.ListWorkRequest()
        await eventually(lambda: len(queen.queen.loop.state.work.ended) == 1, "withdrawn")
        work = (await queen.leases.ListWork(listing)).work
        states = {one.request_id: one.state for one in work}
        assert states == {"": pb.WORK_STATE_FAILED, "r": pb.WORK_STATE_QUEUED}


# --- The wire of hosts ---


def test_what_a_host_does_not_say_is_no_measurement() -> None:
    full = snapshot_pb2.HostLoad(
        cpu_count=4, cpu_utilization=0.5, memory_total_bytes=100, memory_available_bytes=25
    )
    said = pool_report_of(snapshot_pb2.HostSnapshot(pool_id="p", load=full))
    assert said.load == HostLoad(cpu_percent=50.0, memory_percent=75.0)
    silent = pool_report_of(snapshot_pb2.HostSnapshot(pool_id="p"))
    assert silent.load is None
    empty = pool_report_of(snapshot_pb2.HostSnapshot(pool_id="p", load=snapshot_pb2.HostLoad()))
    assert empty.load == HostLoad(cpu_percent=None, memory_percent=None)
