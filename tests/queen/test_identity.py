"""Pools and workers speak for themselves: what a token binds, no message undoes."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest
from beeyard.pool.v1 import pool_service_pb2 as pool_pb
from beeyard.pool.v1 import pool_service_pb2_grpc as pool_rpc
from beeyard.pool.v1 import snapshot_pb2
from beeyard.queen.v1 import lease_service_pb2 as lease_pb
from beeyard.worker.v1 import engine_service_pb2 as engine_pb
from beeyard.worker.v1 import worker_service_pb2 as worker_pb
from beeyard.worker.v1 import worker_service_pb2_grpc as worker_rpc
from beeyard_core.ids import WorkerId
from beeyard_runtime.security.callers import Role

from tests.support.attached_worker import hello_of, status_of
from tests.support.eventually import eventually
from tests.support.running_queen import RunningQueen, running_queen
from tests.support.tokens import Metadata, Tokens, shows

DENIED = grpc.StatusCode.PERMISSION_DENIED


class Fleet:
    """A queen, and the tokens of two pools and some of their workers."""

    def __init__(
        self, queen: RunningQueen, tokens: dict[str, Metadata], stack: AsyncExitStack
    ) -> None:
        self.queen = queen
        self.tokens = tokens
        self._stack = stack

    async def attach(self, who: str, worker_id: str, pool_id: str) -> grpc.StatusCode:
        """Attach as `who`; return OK once the queen has welcomed the worker, which then stays."""
        stub = worker_rpc.WorkerServiceStub(self.queen.channel)
        call = stub.Attach(metadata=self.tokens[who])  # type: ignore[call-arg]  # written by hand
        self._stack.callback(call.cancel)
        try:
            await call.write(hello_of(status_of(worker_id), pool_id=pool_id))
            welcome = await call.read()
        except grpc.aio.AioRpcError as error:
            return error.code()
        assert isinstance(welcome, worker_pb.AttachResponse)
        assert welcome.HasField("welcome"), welcome
        return grpc.StatusCode.OK

    async def report(self, who: str, *snapshots: snapshot_pb2.HostSnapshot) -> grpc.StatusCode:
        """Synchronize as `who`; return OK once the queen has answered."""
        stub = pool_rpc.PoolServiceStub(self.queen.channel)
        call = stub.Synchronize(metadata=self.tokens[who])  # type: ignore[call-arg]  # as above
        self._stack.callback(call.cancel)
        try:
            for snapshot in snapshots:
                await call.write(pool_pb.SynchronizeRequest(snapshot=snapshot))
            await call.read()
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    def knows(self, worker_id: str) -> bool:
        return WorkerId(worker_id) in self.queen.queen.loop.state.fleet.workers


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    file = Tokens(tmp_path / "tokens.json")
    tokens = {
        "pool-a": file.add("pool-a", Role.POOL, pool_id="a"),
        "pool-b": file.add("pool-b", Role.POOL, pool_id="b"),
        "worker-a": file.add("worker-a", Role.WORKER, pool_id="a"),
        "only-w1": file.add("only-w1", Role.WORKER, pool_id="a", worker_id="w1"),
        "of-none": file.add("of-none", Role.WORKER),
    }
    async with running_queen(tokens=file.path) as queen, AsyncExitStack() as stack:
        yield Fleet(queen, {name: shows(token) for name, token in tokens.items()}, stack)


async def test_a_pool_reports_as_itself_only(fleet: Fleet) -> None:
    assert await fleet.report("pool-a", snapshot_pb2.HostSnapshot(pool_id="b")) is DENIED
    assert (
        await fleet.report("pool-a", snapshot_pb2.HostSnapshot(pool_id="a")) is grpc.StatusCode.OK
    )


@pytest.mark.parametrize("who", ["pool-a", "worker-a"])
async def test_a_worker_attaches_to_its_own_pool_only(fleet: Fleet, who: str) -> None:
    assert await fleet.attach(who, "w1", "b") is DENIED
    assert await fleet.attach(who, "w1", "") is DENIED
    assert not fleet.knows("w1")
    assert await fleet.attach(who, "w1", "a") is grpc.StatusCode.OK


async def test_a_worker_of_no_pool_attaches_to_none(fleet: Fleet) -> None:
    assert await fleet.attach("of-none", "w1", "a") is DENIED
    assert await fleet.attach("of-none", "w1", "") is grpc.StatusCode.OK


async def test_a_token_of_one_worker_is_of_no_other(fleet: Fleet) -> None:
    assert await fleet.attach("only-w1", "w2", "a") is DENIED
    assert await fleet.attach("only-w1", "w1", "a") is grpc.StatusCode.OK


async def test_a_worker_cannot_take_the_place_of_another_pools(fleet: Fleet) -> None:
    assert await fleet.attach("pool-b", "w1", "b") is grpc.StatusCode.OK
    # Under its own pool, but with the name of the other's worker, whose stream it would end.
    assert await fleet.attach("pool-a", "w1", "a") is DENIED
    assert fleet.queen.queen.loop.state.fleet.workers[WorkerId("w1")].report.pool_id == "b"
    assert fleet.queen.queen.loop.state.fleet.workers[WorkerId("w1")].session


async def test_a_pool_cannot_report_the_end_of_another_pools_worker(fleet: Fleet) -> None:
    assert await fleet.attach("pool-b", "w1", "b") is grpc.StatusCode.OK
    assert await fleet.attach("pool-a", "w2", "a") is grpc.StatusCode.OK
    dead = [
        snapshot_pb2.WorkerProcess(
            worker_id=worker_id, state=engine_pb.WORKER_STATE_FAILED, exit_code=1
        )
        for worker_id in ("w1", "w2")
    ]
    snapshot = snapshot_pb2.HostSnapshot(pool_id="a", workers=dead)
    assert await fleet.report("pool-a", snapshot) is grpc.StatusCode.OK
    await eventually(lambda: not fleet.knows("w2"), "its own worker is gone")
    assert fleet.knows("w1")
    kept, _ = fleet.queen.queen._hosts.snapshots["a"]  # type: ignore[index]
    assert [worker.worker_id for worker in kept.workers] == ["w2"]


async def test_units_are_asked_of_ones_own_host(fleet: Fleet) -> None:
    request = lease_pb.RequestLeaseRequest(worker_id="h1", pool_id="b")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await fleet.queen.leases.RequestLease(request, metadata=fleet.tokens["worker-a"])
    assert refused.value.code() is DENIED
    answer = await fleet.queen.leases.RequestLease(request, metadata=fleet.tokens["of-none"])
    assert answer.HasField("denied")
