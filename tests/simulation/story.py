"""What a seed means: how large the system is, who asks for what, and which faults come when.

Each seed switches a few kinds of fault on and leaves the others out, so that some stories are about one kind alone and
go deep; a mixture of everything at every time would end every story at the same shallow place.
"""

import random
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Final

#: Faults begin within this time; once the last of them is over, everything must come to rest.
FAULTS_END_MS: Final = 11_000
#: Share of the stories with machines in which something befalls one.
_MACHINES_SUFFER: Final = 0.3
_MODEL_RATES: Final = (50, 100, 200)


@unique
class FaultKind(StrEnum):
    """What can go wrong."""

    KILL = "kill"
    POWER_LOSS = "power loss"
    TERMINATE = "terminate"
    STOP = "stop"
    SUSPEND = "suspend"
    CUT = "cut"
    CUT_ONE_WAY = "cut one way"
    BREAK = "break"
    SLOW_NETWORK = "slow network"
    WALL_JUMP = "wall jump"
    SLOW_DISK = "slow disk"
    FULL_DISK = "full disk"
    BROKEN_DISK = "broken disk"
    LOST_HOST = "lost host"
    KILLED_YOUNG = "killed young"


#: What befalls a whole machine. It comes on top of the rest, since it needs a machine.
_OF_MACHINES: Final = (FaultKind.LOST_HOST, FaultKind.KILLED_YOUNG)
_OF_PROCESSES: Final = tuple(kind for kind in FaultKind if kind not in _OF_MACHINES)
_MOMENTS: Final = frozenset(
    {
        FaultKind.KILL,
        FaultKind.POWER_LOSS,
        FaultKind.TERMINATE,
        FaultKind.BREAK,
        FaultKind.WALL_JUMP,
        FaultKind.LOST_HOST,
    }
)


@unique
class Manner(StrEnum):
    """How a client follows its job."""

    INFER = "infer"
    SUBMIT_AND_WATCH = "submit and watch"
    SUBMIT_AND_LEAVE = "submit and leave"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: `ms` says how long it lasts, or by how much a clock jumps."""

    at_ms: int
    kind: FaultKind
    target: str
    ms: int

    @property
    def lasts(self) -> bool:
        """Whether it is over only after a while."""
        return self.kind not in _MOMENTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One job that a client wants.

    Attributes:
        request_id: The idempotency key; the client's intention survives the client's process.
        cancel_after: Tokens after which the client cancels; None: never. 0: as soon as it is accepted.
        pause_ms: How long the client does not read after its first token.
        watchers: Further followers that begin somewhere in the middle.
    """

    request_id: str
    at_ms: int
    manner: Manner
    prompt: str
    model: str
    max_tokens: int
    seed: int
    priority: str
    tenant_id: str
    session_id: str
    deadline_ms: int = 0
    cancel_after: int | None = None
    pause_ms: int = 0
    watchers: int = 0


@dataclass(frozen=True, slots=True)
class Chore:
    """One piece of heavy work: `units` of some host for `ms` milliseconds."""

    request_id: str
    at_ms: int
    units: int
    ms: int
    tenant_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """Everything that is decided before the world begins.

    Attributes:
        rate: Tokens a second of each answer.
        workers_max: So many find room on one machine.
        kept_workers: So many of its model are there at least, if the machines have room for them.
    """

    seed: int
    is_platform_mode: bool
    rate: int
    slots: int
    lone_workers: tuple[str, ...]
    machines: tuple[str, ...]
    workers_max: int
    kept_workers: int
    clients: tuple[tuple[str, tuple[Ask, ...]], ...]
    crews: tuple[tuple[str, tuple[Chore, ...]], ...]
    faults: tuple[Fault, ...]
    window_bytes: int
    repeats: float

    @property
    def calm_ms(self) -> int:
        """When the last fault is over."""
        ends = [fault.at_ms + max(fault.ms, 0) for fault in self.faults if fault.lasts]
        return max([FAULTS_END_MS, *ends])

    @property
    def asks(self) -> tuple[Ask, ...]:
        """Every job that anybody wants."""
        return tuple(ask for _, asks in self.clients for ask in asks)


def story_of(seed: int) -> Story:
    """Return the story of a seed."""
    chance = random.Random(f"story {seed}")
    machines = tuple(f"host-{n}" for n in range(chance.choice((0, 1, 1, 2))))
    lone = tuple(f"lone-{n}" for n in range(chance.randint(0 if machines else 1, 2)))
    clients = tuple(
        (f"client-{n}", _asks_of(chance, f"client-{n}", _models(machines, lone)))
        for n in range(chance.randint(1, 3))
    )
    # Units are those of hosts that report.
    crews = tuple(
        (f"crew-{n}", _chores_of(chance, f"crew-{n}"))
        for n in range(chance.choice((0, 0, 1, 2)) if machines else 0)
    )
    names = tuple(name for name, _ in (*clients, *crews))
    of_machines = random.Random(f"machines {seed}")
    faults = _faults_of(chance, machines, lone, names)
    if machines and of_machines.random() < _MACHINES_SUFFER:
        faults = tuple(sorted((*faults, *_machine_faults_of(of_machines)), key=_time_of))
    return Story(
        seed=seed,
        is_platform_mode=chance.random() < 0.3,
        rate=chance.choice(_MODEL_RATES),
        slots=chance.randint(1, 3),
        lone_workers=lone,
        machines=machines,
        workers_max=of_machines.choice((2, 2, 4)),
        kept_workers=of_machines.choice((1, 1, 3)),
        clients=clients,
        crews=crews,
        faults=faults,
        window_bytes=chance.choice((512, 4_096, 65_536)),
        repeats=chance.choice((0.0, 0.0, 0.3)),
    )


def _models(machines: tuple[str, ...], lone: tuple[str, ...]) -> tuple[str, ...]:
    """Return the models that somebody serves."""
    return ("hosted",) * bool(machines) + ("lone",) * bool(lone)


def _asks_of(chance: random.Random, client: str, models: tuple[str, ...]) -> tuple[Ask, ...]:
    return tuple(
        _ask(chance, f"{client}-ask-{n}", client, models) for n in range(chance.randint(1, 4))
    )


def _ask(chance: random.Random, request_id: str, client: str, models: tuple[str, ...]) -> Ask:
    return Ask(
        request_id=request_id,
        at_ms=chance.randint(500, 9_000),
        manner=chance.choice(tuple(Manner)),
        prompt=f"{client} says {chance.randrange(1_000)}",
        model=chance.choice(models),
        max_tokens=chance.choice((1, 20, 60, 150, 300)),
        seed=chance.randrange(1 << 32),
        priority=chance.choice(("INTERACTIVE", "NORMAL", "NORMAL", "BATCH")),
        tenant_id=chance.choice(("", "team-a", "team-b")),
        session_id=chance.choice(("", "chat")),
        deadline_ms=chance.choice((0, 0, 0, 0, 8_000)),
        cancel_after=chance.choice((None, None, None, None, 0, 15)),
        pause_ms=chance.choice((0, 0, 0, 4_000)),
        watchers=chance.choice((0, 0, 1)),
    )


def _chores_of(chance: random.Random, crew: str) -> tuple[Chore, ...]:
    return tuple(
        Chore(
            request_id=f"{crew}-chore-{n}",
            at_ms=chance.randint(2_000, 8_000),
            units=chance.choice((10, 40, 70)),
            ms=chance.choice((200, 2_000, 6_000)),
            tenant_id=chance.choice(("", "team-a")),
        )
        for n in range(chance.randint(1, 3))
    )


def _faults_of(
    chance: random.Random,
    machines: tuple[str, ...],
    lone: tuple[str, ...],
    clients: tuple[str, ...],
) -> tuple[Fault, ...]:
    kinds = chance.sample(_OF_PROCESSES, chance.randint(1, 4))
    # The queen is what everything else depends on, so it gets the most attention.
    processes = ("queen", "queen", *machines, *lone, *clients, "a hosted worker")
    faults = [_fault(chance, chance.choice(kinds), processes) for _ in range(chance.randint(1, 6))]
    return tuple(sorted(faults, key=_time_of))


def _machine_faults_of(chance: random.Random) -> tuple[Fault, ...]:
    kind = chance.choice(_OF_MACHINES)
    # Each worker that is killed young waits longer to be born than the one before.
    return tuple(
        Fault(chance.randint(200, FAULTS_END_MS), kind, "a machine", chance.choice((6_000, 13_000)))
        for _ in range(chance.randint(1, 2))
    )


def _time_of(fault: Fault) -> int:
    return fault.at_ms


def _fault(chance: random.Random, kind: FaultKind, processes: tuple[str, ...]) -> Fault:
    at_ms = chance.randint(200, FAULTS_END_MS)
    target = chance.choice(processes)
    ms = chance.choice((300, 2_000, 6_000, 13_000))
    match kind:
        case FaultKind.WALL_JUMP:
            ms = chance.choice((-86_400_000, -5_000, 60_000, 86_400_000))
        case FaultKind.SLOW_DISK | FaultKind.FULL_DISK | FaultKind.BROKEN_DISK:
            target = "disk"
        case FaultKind.SLOW_NETWORK:
            target = "network"
        case _:
            pass
    return Fault(at_ms, kind, target, ms)
