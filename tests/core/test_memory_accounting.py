"""The memory of devices: a worker counts once, from the wish for it to its end, and nothing is promised twice."""

from dataclasses import dataclass, field

from beeyard_core.demand import free_bytes_of, promised_bytes
from beeyard_core.effect import AnswerCall
from beeyard_core.event import PoolReported, WorkerStartRequested
from beeyard_core.fleet import ProcessReport, WorkerState
from beeyard_core.ids import ModelName, PoolId, WorkerId
from beeyard_core.instant import Instant
from beeyard_core.policy.apply import apply
from beeyard_core.policy.intent import StartWorker
from beeyard_core.state import QueenState
from beeyard_core.step import step
from hypothesis import given
from hypothesis import strategies as st

from tests.support.cases import in_cases
from tests.support.core_values import START, cached_of, device_of, pool_of

P1 = PoolId("p1")
TOTAL = 64
SIZES = {ModelName("small"): 8, ModelName("large"): 24}
DEVICES = ("gpu0", "gpu1")


@dataclass
class Load:
    """A process as it really is: `loaded` quarters of its model are in the memory of its device."""

    model: ModelName
    device: str
    loaded: int = 0

    @property
    def used_bytes(self) -> int:
        return SIZES[self.model] * self.loaded // 4


@dataclass
class Truth:
    """A host as it really is, and the queen that knows it by its snapshots.

    Attributes:
        others: Bytes of each device that somebody else uses.
        running: Its workers.
    """

    others: dict[str, int]
    state: QueenState = field(default_factory=QueenState)
    running: dict[WorkerId, Load] = field(default_factory=dict)
    now: Instant = START
    calls: int = 0

    def used_bytes(self, device: str) -> int:
        """What the driver measures: everybody's memory, workers included."""
        mine = sum(load.used_bytes for load in self.running.values() if load.device == device)
        return self.others[device] + mine

    def report(self) -> None:
        """The host says how it is."""
        devices = tuple(
            device_of(d, vram_total_bytes=TOTAL, vram_free_bytes=TOTAL - self.used_bytes(d))
            for d in DEVICES
        )
        processes = tuple(
            ProcessReport(
                worker_id=worker_id, model=load.model, device=load.device,
                state=WorkerState.READY if load.loaded == 4 else WorkerState.STARTING,
                load_progress=load.loaded / 4, reserved_bytes=SIZES[load.model],
            )
            for worker_id, load in self.running.items()
        )  # fmt: skip
        models = tuple(cached_of(name, required_bytes=size) for name, size in SIZES.items())
        report = pool_of("p1", devices=devices, processes=processes, models=models)
        step(self.state, PoolReported(report), self.now)

    def ask(self, model: ModelName, device: int | None) -> None:
        """An operator wants a worker, or a policy wants one on a device."""
        self.calls += 1
        if device is None:
            event = WorkerStartRequested(call_id=self.calls, model=model)
            (answer,) = [e for e in step(self.state, event, self.now) if isinstance(e, AnswerCall)]
            assert answer.call_id == self.calls
            return
        apply(
            self.state,
            StartWorker.at(model, P1, str(device), reason=""),
            self.now,
            [],
            label="test@1",
        )

    def start(self) -> None:
        """The pool manager starts what it was told to, where most is free if it may choose."""
        for worker_id, wish in self.state.wishes.items():
            if worker_id not in self.running and not wish.is_seen:
                device = wish.desired.device or max(DEVICES, key=lambda d: -self.committed(d))
                self.running[worker_id] = Load(wish.desired.model, device)

    def load(self, quarters: int) -> None:
        for load in self.running.values():
            load.loaded = min(load.loaded + quarters, 4)

    def committed(self, device: str) -> int:
        """Bytes that will be in use once all that runs is loaded."""
        mine = (SIZES[each.model] for each in self.running.values() if each.device == device)
        return self.others[device] + sum(mine)

    def wished(self, device: str) -> int:
        """Bytes of what is wished for and does not run, there or wherever its host likes."""
        return sum(
            SIZES[wish.desired.model]
            for worker_id, wish in self.state.wishes.items()
            if worker_id not in self.running and wish.desired.device in ("", device)
        )

    def free_bytes(self, device: str) -> int:
        pool = self.state.fleet.pools[P1]
        (found,) = [each for each in pool.report.devices if each.uuid == device]
        return free_bytes_of(pool, found, promised_bytes(self.state))


MOVES = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "place", "place", "start", "load", "report"]),
        st.integers(0, 5),
    ),
    max_size=30,
)


@in_cases(60)
@given(MOVES, st.lists(st.integers(0, 40), min_size=2, max_size=2))
def test_a_worker_counts_once_whatever_its_stage_and_no_device_is_ever_overcommitted(
    moves: list[tuple[str, int]], others: list[int]
) -> None:
    truth = Truth(dict(zip(DEVICES, others, strict=True)))
    truth.report()
    for move, value in moves:
        match move:
            case "ask":
                truth.ask(list(SIZES)[value % 2], None)
            case "place":
                truth.ask(list(SIZES)[value % 2], value % 3 % 2)
            case "start":
                truth.start()
                truth.report()
            case "load":
                truth.load(value)
                truth.report()
            case _:
                truth.report()
        for device in DEVICES:
            assert truth.free_bytes(device) == TOTAL - truth.committed(device) - truth.wished(
                device
            )
            assert truth.committed(device) <= TOTAL


def test_a_process_that_has_ended_reserves_nothing_and_one_without_a_device_everywhere() -> None:
    state = QueenState()
    loading = ProcessReport(
        worker_id=WorkerId("w1"), model=ModelName("m"), state=WorkerState.STARTING, reserved_bytes=9
    )
    ended = ProcessReport(
        worker_id=WorkerId("w2"), model=ModelName("m"), state=WorkerState.STARTING, reserved_bytes=9,
        device="gpu0", exited=True,
    )  # fmt: skip
    devices = tuple(device_of(d, vram_free_bytes=100) for d in DEVICES)
    step(state, PoolReported(pool_of("p1", devices=devices, processes=(loading, ended))), START)
    pool = state.fleet.pools[P1]
    assert [free_bytes_of(pool, each, {}) for each in pool.report.devices] == [91, 91]
