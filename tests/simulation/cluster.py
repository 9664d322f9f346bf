"""The services of a story, each started by its own `main` in a process of the world."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import beeyard_pool_manager.app as pool_app
import beeyard_queen.app as queen_app
import beeyard_runtime.rpc_server as runtime_rpc_server
import beeyard_worker.app as worker_app
import grpc
from beeyard_pool_manager import host as pool_host
from beeyard_pool_manager.config import PoolManagerSettings
from beeyard_pool_manager.workers.worker_process import WorkerSpec
from beeyard_queen.config import QueenSettings
from beeyard_queen.egress.feed import JobFeed
from beeyard_queen.egress.relay import Relay
from beeyard_runtime import lifecycle
from beeyard_runtime.lifecycle import Stop
from beeyard_worker.config import WorkerSettings
from beeyard_worker.engine import synthetic

from tests.simulation.crews import Crew
from tests.simulation.customers import QUEEN, Auditor, Customer
from tests.simulation.disk import Disk
from tests.simulation.ledger import Ledger
from tests.simulation.machines import (
    SPARE_BYTES,
    WORKER_BYTES,
    Machine,
    MadeUpInventory,
    MadeUpLauncher,
    SizedCatalogue,
)
from tests.simulation.network import Network
from tests.simulation.outside import Output, Seam, seams_to
from tests.simulation.rpc_client import SimChannel
from tests.simulation.rpc_server import SimServer
from tests.simulation.story import Story
from tests.simulation.world import US_PER_MS, Process, World

Main = Callable[[], Coroutine[Any, Any, None]]
_TENANTS: Final = Path(__file__).with_name("tenants.toml")
#: An operator, or whatever restarts processes, takes about this long.
_RESTART_MS: Final = (300, 4_000)
#: Within this time from its start a worker is killed where the young are: a synthetic model is soon loaded.
_YOUNG_MS: Final = 3


@dataclass(eq=False)
class Cluster:
    """Every process of a story, by name; what dies is started again after a while.

    Attributes:
        deadly: Machines on which each worker is killed soon after its start.
    """

    story: Story
    world: World
    network: Network
    disk: Disk
    ledger: Ledger
    note: Callable[[str], None]
    machines: dict[str, Machine] = field(default_factory=dict)
    customers: dict[str, Customer | Crew] = field(default_factory=dict)
    running: dict[str, Process] = field(default_factory=dict)
    auditor: Auditor | None = None
    deadly: set[str] = field(default_factory=set)

    def begin(self) -> None:
        """Start everything."""
        self.world.on_fault = self._service_broke
        for name in self.story.machines:
            device_bytes = self.story.workers_max * WORKER_BYTES + SPARE_BYTES
            self.machines[name] = Machine(name, device_bytes, self._launch, self.kill)
        self.ledger.machines = self.machines
        for name, asks in self.story.clients:
            self.customers[name] = Customer(
                name, asks, self.ledger, self.note, lambda: self.world.now_ms
            )
        for name, chores in self.story.crews:
            self.customers[name] = Crew(
                name, chores, self.ledger, self.note, lambda: self.world.now_ms
            )
        for name in ("queen", *self.story.lone_workers, *self.story.machines, *self.customers):
            self.start(name)

    def start(self, name: str) -> None:
        """Start a process under its name, unless it runs."""
        if name in self.running or (name in self.customers and self.customers[name].is_served):
            return
        process = self._process(name, name)
        self.running[name] = process
        self.note(f"start {name}")

        def ended() -> None:
            if self.running.get(name) is process:
                del self.running[name]
            if process.exit_code is not None:
                self.note(f"{name} exits with {process.exit_code}")
            delay_ms = self.world.chance.randint(*_RESTART_MS)
            self.world.at(delay_ms * US_PER_MS, lambda: self.start(name))

        process.on_end.append(ended)
        process.begin(self._main_of(name, process))

    def audit(self) -> Auditor:
        """Start a client that reads everything once more."""
        self.auditor = Auditor(self.ledger)
        self._process("auditor", "auditor").begin(self.auditor.main)
        return self.auditor

    def _process(self, name: str, host: str) -> Process:
        process = self.world.spawn(name, host)
        process.on_end.append(lambda: self.network.gone(process, silently=False))
        return process

    def kill(self, process: Process, *, silently: bool = False) -> None:
        """End a process at once, as `kill -9`; `silently`: as if its machine had lost its power."""
        if process.is_alive:
            self.note(f"kill {process.name}{' silently' if silently else ''}")
            if silently:
                process.on_end[0] = lambda: self.network.gone(process, silently=True)
            process.end()

    def lose(self, machine: str) -> None:
        """Take the power of a machine: everything on it is gone at once, and nobody hears of it."""
        for run in self.machines[machine].alive:
            self.kill(run.process, silently=True)
        if machine in self.running:
            self.kill(self.running[machine], silently=True)

    # --- The services' own main functions ---

    def _main_of(self, name: str, process: Process) -> Main:
        if name == "queen":
            return self._service(process, queen_app.main, self._queen_settings())
        if name in self.machines:
            process.parts["machine"] = self.machines[name]
            return self._service(process, pool_app.main, self._pool_settings(name))
        if name in self.customers:
            return self.customers[name].main
        return self._service(process, worker_app.main, self._worker_settings(name))

    def _service(self, process: Process, main: Callable[..., Any], settings: Any) -> Main:
        async def run() -> None:
            stop = Stop()
            process.ask_to_stop = stop.set
            await main(stop, settings)

        return run

    def _launch(self, machine: Machine, spec: WorkerSpec) -> Process:
        """A pool manager starts a worker."""
        process = self._process(spec.worker_id, machine.name)
        self.note(f"{machine.name} launches {spec.worker_id}")
        settings = WorkerSettings(
            worker_id=spec.worker_id,
            queen=QUEEN,
            pool_id=machine.name,
            metrics_listen="",
            engine="synthetic",
            model=spec.model,
            model_source=spec.source,
            device=spec.device,
            slots=spec.slots,
            context_tokens=spec.context_tokens,
            supervised=True,
            supervisor_grace_ms=20_000,
            drain_grace_ms=3_000,
        )
        process.begin(self._service(process, worker_app.main, settings))
        if machine.name in self.deadly:
            young_ms = self.world.chance.randint(0, _YOUNG_MS)
            self.world.at(young_ms * US_PER_MS, lambda: self.kill(process))
        return process

    def _queen_settings(self) -> QueenSettings:
        return QueenSettings(
            listen=QUEEN,
            metrics_listen="",
            decision_journal="off",
            keep=[f"hosted={self.story.kept_workers}"] if self.story.machines else [],
            policy_mode="platform" if self.story.is_platform_mode else "lab",
            tenants=_TENANTS,
        )

    def _worker_settings(self, name: str) -> WorkerSettings:
        return WorkerSettings(
            worker_id=name,
            queen=QUEEN,
            metrics_listen="",
            engine="synthetic",
            model="lone",
            model_source=str(self.story.rate),
            slots=self.story.slots,
            context_tokens=2_048,
            drain_grace_ms=3_000,
        )

    def _pool_settings(self, name: str) -> PoolManagerSettings:
        return PoolManagerSettings(
            listen="127.0.0.1:0",
            metrics_listen="",
            queen=QUEEN,
            pool_id=name,
            model=[f"hosted=synthetic:{self.story.rate}"],
            slots=self.story.slots,
            worker_stop_grace_ms=3_000,
            supervisor_grace_ms=20_000,
            leave_workers=True,
        )

    def _service_broke(self, process: Process, fault: Exception) -> None:
        """A `main` raised: expected of a service that cannot start, a bug of anything else."""
        if not isinstance(fault, lifecycle.StartFailed):
            self.world.breaks(f"{process.name} broke: {fault!r}")
        self.note(f"{process.name} could not start: {fault}")

    # --- What the world puts in the place of the outside ---

    def seams(self) -> list[Seam]:
        """Return everything that is exchanged while the cluster runs."""
        return [
            *seams_to(self.world),
            *self._library_seams(),
            *self._host_seams(),
            *self._watching_seams(),
        ]

    def _current(self) -> Process:
        assert self.world.current is not None, "only processes make servers and channels"
        return self.world.current

    def _library_seams(self) -> list[Seam]:
        def server(**_: object) -> SimServer:
            return SimServer(self.network, self._current(), self.ledger.wrote)

        def channel(address: str, **_: object) -> SimChannel:
            return SimChannel(self.network, self._current(), address)

        output = Output(self.world)
        return [
            Seam(grpc.aio, "server", server),
            Seam(grpc.aio, "insecure_channel", channel),
            Seam(runtime_rpc_server, "bind_socket", lambda *_: _NoSocket()),
            Seam(runtime_rpc_server, "add_reflection", lambda *_: None),
            Seam(lifecycle, "sys", _Streams(output)),
        ]

    def _host_seams(self) -> list[Seam]:
        def store(_path: Path) -> object:
            return self.disk.mount(self._current())

        def machine() -> Machine:
            found: Machine = self._current().parts["machine"]
            return found

        return [
            Seam(queen_app, "SqliteStore", store),
            Seam(pool_app, "hold_work_dir", lambda _path: _NoSocket()),
            Seam(pool_app, "choose_inventory", lambda _name: MadeUpInventory(machine())),
            Seam(pool_app, "LocalLauncher", lambda *_, **__: MadeUpLauncher(machine())),
            Seam(pool_app, "Catalogue", SizedCatalogue),
            Seam(pool_host, "read_host_load", lambda _usage: machine().load()),
            Seam(pool_host, "CpuUsage", object),
            # Many tokens a step: a story is about what happens between steps, not about their number.
            Seam(synthetic, "STEP_MS", 100),
            Seam(pool_app, "setup_log", lambda *_, **__: None),
            Seam(worker_app, "setup_log", lambda *_, **__: None),
        ]

    def _watching_seams(self) -> list[Seam]:
        """Let the ledger look into processes."""
        cluster = self
        make_queen, make_worker = queen_app.Queen.__init__, worker_app.Worker.__init__
        deliver = Relay._deliver

        def queen_made(queen: queen_app.Queen, *args: Any, **options: Any) -> None:
            make_queen(queen, *args, **options)
            cluster._current().parts["queen"] = queen

        def worker_made(worker: worker_app.Worker, *args: Any, **options: Any) -> None:
            make_worker(worker, *args, **options)
            cluster._current().parts["worker"] = worker

        def delivered(relay: Relay, feed: JobFeed, lease: Any, *rest: Any) -> None:
            process = cluster._current()
            cluster.ledger.delivered(process, lease.job_id, lease.epoch, lease.worker_id)
            deliver(relay, feed, lease, *rest)

        return [
            Seam(queen_app.Queen, "__init__", queen_made),
            Seam(worker_app.Worker, "__init__", worker_made),
            Seam(Relay, "_deliver", delivered),
        ]


class _NoSocket:
    """What is held and closed, and is nothing."""

    def close(self) -> None:
        """Nothing is held."""

    def __enter__(self) -> None:
        """Nothing is held."""

    def __exit__(self, *fault: object) -> None:
        """Nothing is held."""


@dataclass(frozen=True)
class _Streams:
    """The standard streams of a process."""

    stdout: Output

    @property
    def stderr(self) -> Output:
        """Both go the same way."""
        return self.stdout
