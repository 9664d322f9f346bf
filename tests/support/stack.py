"""A whole Beeyard of real processes for one test: a queen, a pool manager and its workers, on free ports.

    async with Stack(models={"tiny": "synthetic:200"}) as stack:
        channel = stack.channel(stack.queen_address)

Everything lives in one temporary folder, and every process bears one mark, so that the end of the test can prove that
nothing is left behind: a process that must be killed there fails the test.
"""

import asyncio
import shutil
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import grpc
import psutil
from beeyard.queen.v1 import fleet_service_pb2 as fleet_pb
from beeyard.queen.v1 import fleet_service_pb2_grpc as fleet_rpc
from beeyard.worker.v1 import engine_service_pb2 as engine_pb
from beeyard_runtime.rpc_channel import open_channel
from beeyard_runtime.security.dialing import PLAIN, Dialing

from tests.support.service import (
    MARK,
    STOP_TIMEOUT_S,
    Service,
    StackFailed,
    clear,
    log_tail,
    lone_worker,
)

Role = Literal["queen", "pool_manager", "worker"]
LOOPBACK = "127.0.0.1:0"
POOL_ID = "pool-under-test"
READY_TIMEOUT_S = 60.0
WATCH_INTERVAL_MS = 100
REPORT_INTERVAL_MS = 200
READY_STATES = (
    engine_pb.WorkerState.WORKER_STATE_READY,
    engine_pb.WorkerState.WORKER_STATE_BUSY,
)


class Stack:
    """Running services.

    Attributes:
        folder: Where they keep everything; removed at the end.
        queen: The queen's process.
        pool_manager: The pool manager's process.
        models: What the pool offers, as `name: source`.
    """

    def __init__(
        self,
        *,
        models: Mapping[str, str] | None = None,
        workers: int = 1,
        queen_flags: Sequence[str] = (),
        pool_manager_flags: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        dialing: Dialing = PLAIN,
    ) -> None:
        """Prepare a stack; nothing runs yet.

        Args:
            models: What the pool offers; each source as the pool manager's `--model` takes it.
            workers: How many the queen keeps of each model; 0: as many as jobs ask for.
            queen_flags: More of the queen's command line.
            pool_manager_flags: More of the pool manager's.
            env: More of every process' environment.
            dialing: What the test itself shows to the services.
        """
        self.models = dict(models or {"tiny": "synthetic:200"})
        self.folder = Path(tempfile.mkdtemp(prefix="beeyard-stack-"))
        self._workers = workers
        self._mark = uuid.uuid4().hex
        self._env = {MARK: self._mark, **(env or {})}
        self._dialing = dialing
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._first_worker = fleet_pb.Worker()
        self._pool_manager_flags = pool_manager_flags
        self.queen = self._service(
            "queen",
            *("--listen", LOOPBACK, "--admin-listen", LOOPBACK),
            *("--store", str(self.folder / "queen.sqlite"), "--log-format", "json"),
            *(f"--keep={name}={workers}" for name in self.models if workers),
            *queen_flags,
        )
        self.pool_manager = self._service("pool_manager")

    async def __aenter__(self) -> Self:
        """Start everything and return once the workers are ready."""
        try:
            await self.queen.start()
            self.pool_manager = self._service("pool_manager", *self._pool_flags())
            await self.pool_manager.start()
            await self.wait_for(self._has_reported, "the pool reports its models")
            await self._note_ready()
        except BaseException:
            self.print_logs()
            await self._clear_up()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop everything; a process that did not obey fails the test, unless the test failed already."""
        if fault is not None:
            self.print_logs()
        complaints = await self._clear_up()
        if complaints and fault is None:
            raise StackFailed("; ".join(complaints))

    @property
    def queen_address(self) -> str:
        """The queen's `host:port`; the same after a restart."""
        return self.queen.address

    @property
    def pool_address(self) -> str:
        """The pool manager's `host:port`."""
        return self.pool_manager.address

    @property
    def worker_address(self) -> str:
        """The `host:port` of the first worker that was ready."""
        return self._first_worker.address

    @property
    def worker_id(self) -> str:
        """The id of the first worker that was ready."""
        return self._first_worker.status.worker_id

    @property
    def environment(self) -> dict[str, str]:
        """What marks a process as this stack's, for one that the test starts beside it."""
        return dict(self._env)

    def channel(self, address: str) -> grpc.aio.Channel:
        """Return the stack's one channel to an address; closed at the end."""
        if address not in self._channels:
            self._channels[address] = open_channel(address, dialing=self._dialing)
        return self._channels[address]

    async def fleet(self) -> fleet_pb.FleetSnapshot:
        """Return the fleet as the queen sees it now."""
        return await self.wait_for(lambda _: True, "the queen shows its fleet")

    async def wait_for(
        self,
        holds: Callable[[fleet_pb.FleetSnapshot], bool],
        what: str,
        timeout_s: float = READY_TIMEOUT_S,
    ) -> fleet_pb.FleetSnapshot:
        """Return the first fleet snapshot of which `holds` is true.

        Args:
            holds: The condition.
            what: The condition in words, for the failure.
            timeout_s: How long to wait, seconds.

        Raises:
            StackFailed: It did not become true.
        """
        seen = fleet_pb.FleetSnapshot()
        try:
            async with asyncio.timeout(timeout_s):
                async for seen in self._snapshots():
                    if holds(seen):
                        return seen
        except TimeoutError:
            raise StackFailed(f"never happened: {what}; the fleet at last:\n{seen}") from None
        raise StackFailed(f"the queen ended WatchFleet before: {what}")

    async def kill(self, role: Role) -> None:
        """End a process by SIGKILL; return once it is gone."""
        match role:
            case "queen":
                await self.queen.kill()
            case "pool_manager":
                await self.pool_manager.kill()
            case "worker":
                await self._kill_worker()

    async def restart(self, role: Role) -> None:
        """End a process if it still runs, start it again at its old address and wait for ready workers.

        A queen is asked to stop. A pool manager is killed, since one that is asked takes its workers with it; its
        successor adopts them. A worker is killed, and its pool manager starts another.
        """
        if role == "worker":
            await self._kill_worker()
        else:
            service = self.queen if role == "queen" else self.pool_manager
            address = service.address
            await (service.stop() if role == "queen" else service.kill())
            await service.start(["--listen", address])
        await self._note_ready()

    @asynccontextmanager
    async def lone_worker(self, *flags: str) -> AsyncIterator[Service]:
        """Run one worker that belongs to no queen, for as long as the block lasts."""
        name = f"lone-{uuid.uuid4().hex[:8]}"
        log = self.folder / f"{name}.log"
        async with lone_worker(name, *flags, log=log, env=self._env) as worker:
            yield worker

    def print_logs(self) -> None:
        """Write the end of every log to stderr, which pytest shows."""
        for log in sorted(self.folder.rglob("*.log")):
            sys.stderr.write(log_tail(log) + "\n")

    def _service(self, role: str, *flags: str) -> Service:
        return Service(role, flags, log=self.folder / f"{role}.log", env=self._env)

    def _pool_flags(self) -> list[str]:
        (self.folder / "models").mkdir()
        flags = ["--listen", LOOPBACK, "--admin-listen", LOOPBACK, "--queen", self.queen.address]
        flags += ["--pool-id", POOL_ID, "--work-dir", str(self.folder / "pool")]
        flags += ["--models-dir", str(self.folder / "models"), "--inventory", "cpu"]
        flags += ["--report-interval-ms", str(REPORT_INTERVAL_MS), "--log-format", "json"]
        for name, source in self.models.items():
            flags += ["--model", f"{name}={source}"]
        return [*flags, *self._pool_manager_flags]

    def _has_reported(self, fleet: fleet_pb.FleetSnapshot) -> bool:
        offered = {model.model for pool in fleet.pools for model in pool.snapshot.models}
        return offered >= set(self.models)

    async def _note_ready(self) -> None:
        """Wait for the workers that the queen keeps; a crashed one comes back under another id."""
        fleet = await self.wait_for(
            lambda fleet: all(
                sum(w.status.model == model for w in _ready(fleet)) >= self._workers
                for model in self.models
            ),
            f"{self._workers} workers of each of {sorted(self.models)} are ready",
        )
        ready = _ready(fleet)
        if self.worker_id not in {w.status.worker_id for w in ready}:
            self._first_worker = next(iter(ready), fleet_pb.Worker())

    async def _kill_worker(self) -> None:
        fleet = await self.wait_for(
            lambda fleet: any(
                w.pid and w.status.worker_id == self.worker_id for w in fleet.workers
            ),
            "the pool manager reports the worker's process id",
        )
        pid = next(w.pid for w in fleet.workers if w.status.worker_id == self.worker_id)
        process = psutil.Process(pid)
        assert process.environ().get(MARK) == self._mark, f"process {pid} is not of this stack"
        process.kill()
        await asyncio.to_thread(psutil.wait_procs, [process], timeout=STOP_TIMEOUT_S)
        await self.wait_for(
            lambda fleet: not any(w.pid == pid for w in _ready(fleet)),
            "the worker's end is noticed",
        )

    async def _snapshots(self) -> AsyncIterator[fleet_pb.FleetSnapshot]:
        """Follow the fleet, through restarts of the queen."""
        stub = fleet_rpc.FleetServiceStub(self.channel(self.queen_address))
        request = fleet_pb.WatchFleetRequest(min_interval_ms=WATCH_INTERVAL_MS)
        while True:
            call = stub.WatchFleet(request, wait_for_ready=True)
            try:
                async for snapshot in call:
                    yield snapshot
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
            finally:
                call.cancel()

    async def _clear_up(self) -> list[str]:
        """Stop all, in the order in which nobody starts anything again; return what was wrong."""
        complaints = []
        for channel in self._channels.values():
            await channel.close(None)
        for service in (self.pool_manager, self.queen):
            try:
                await service.stop()
            except StackFailed as failure:
                complaints.append(str(failure))
            if service.exit_code and service.exit_code > 0:
                complaints.append(
                    f"{service.role} ended with exit code {service.exit_code}\n{service.log_tail()}"
                )
        # A pool manager that ends may leave its workers to a successor; here there is none.
        killed = await clear(self._mark)
        complaints += [f"left behind and deaf to SIGTERM: {name}" for name in killed]
        shutil.rmtree(self.folder, ignore_errors=True)
        return complaints


def _ready(fleet: fleet_pb.FleetSnapshot) -> list[fleet_pb.Worker]:
    return [w for w in fleet.workers if w.attached and w.status.state in READY_STATES]
