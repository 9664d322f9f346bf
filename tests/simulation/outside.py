"""What is outside of the services, made up: time, chance, threads, sockets, standard output.

The services are run by their own `main` functions. Every module of ours that imported `time`, `random`, `secrets`,
`uuid` or `threading` finds the world's in their place while a simulation runs, so a module that is written tomorrow is
covered as well. Each stand-in asks whose code runs just now, since each process has clocks and a chance of its own.
"""

import contextlib
import random
import secrets
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

from tests.simulation.world import US_PER_MS, Process, World

_OURS = (
    "beeyard_queen",
    "beeyard_worker",
    "beeyard_pool_manager",
    "beeyard_runtime",
    "beeyard_client",
)
_EXCHANGED = frozenset({time, random, secrets, uuid, threading})


class Seam(NamedTuple):
    """A place where something is exchanged for the time of a simulation."""

    owner: Any
    name: str
    replacement: Any


@contextlib.contextmanager
def exchanged(seams: Sequence[Seam]) -> Iterator[None]:
    """Exchange what the seams name while the block runs.

    Raises:
        AttributeError: A seam names something that is not there (any more).
    """
    before = [getattr_static(seam.owner, seam.name) for seam in seams]
    for seam in seams:
        setattr(seam.owner, seam.name, seam.replacement)
    try:
        yield
    finally:
        for seam, original in reversed(list(zip(seams, before, strict=True))):
            setattr(seam.owner, seam.name, original)


def getattr_static(owner: Any, name: str) -> Any:
    """Return what an owner itself has under a name, without binding it."""
    return vars(owner)[name]


def seams_to(world: World) -> list[Seam]:
    """Return the seams at which time, chance and threads of every module of ours become the world's."""

    def current() -> Process:
        process = world.current
        assert process is not None, "code of a service ran outside of its process"
        return process

    stand_ins: dict[ModuleType, Any] = {
        time: _time_of(current),
        random: _random_of(current),
        secrets: _secrets_of(current),
        uuid: _uuid_of(current),
        threading: SimpleNamespace(Thread=_ThreadAtOnce),
    }
    assert set(stand_ins) == _EXCHANGED
    return [Seam(module, name, stand_ins[kind]) for module, name, kind in _uses(len(sys.modules))]


@cache
def _uses(_modules_count: int) -> list[tuple[ModuleType, str, ModuleType]]:
    """Return where modules of ours use one that is exchanged; looked up anew once more modules are imported."""
    return [
        (module, name, value)
        for module_name, module in list(sys.modules.items())
        if module_name.partition(".")[0] in _OURS
        for name, value in list(vars(module).items())
        if isinstance(value, ModuleType) and value in _EXCHANGED
    ]


def _time_of(current: Callable[[], Process]) -> SimpleNamespace:
    return SimpleNamespace(
        monotonic=lambda: current().mono_us / 1_000_000,
        monotonic_ns=lambda: current().mono_us * 1_000,
        perf_counter=lambda: current().mono_us / 1_000_000,
        thread_time_ns=lambda: 0,
        time=lambda: current().wall_ms / 1_000,
        time_ns=lambda: current().wall_ms * 1_000 * US_PER_MS,
    )


def _random_of(current: Callable[[], Process]) -> SimpleNamespace:
    def source(seed: object = None) -> random.Random:
        return random.Random(current().chance.getrandbits(64) if seed is None else seed)  # type: ignore[arg-type]

    def drawing(name: str) -> Callable[..., object]:
        def draw(*arguments: Any) -> object:
            return getattr(current().chance, name)(*arguments)

        return draw

    functions = ("randint", "random", "choice", "uniform", "shuffle", "randrange", "getrandbits")
    return SimpleNamespace(Random=source, **{name: drawing(name) for name in functions})


def _secrets_of(current: Callable[[], Process]) -> SimpleNamespace:
    def token_bytes(count: int = 32) -> bytes:
        return current().chance.randbytes(count)

    def token_hex(count: int = 32) -> str:
        return token_bytes(count).hex()

    return SimpleNamespace(
        token_bytes=token_bytes, token_hex=token_hex, compare_digest=secrets.compare_digest
    )


def _uuid_of(current: Callable[[], Process]) -> SimpleNamespace:
    def uuid4() -> uuid.UUID:
        return uuid.UUID(int=current().chance.getrandbits(128), version=4)

    return SimpleNamespace(uuid4=uuid4, UUID=uuid.UUID)


class _ThreadAtOnce:
    """A thread that has done its work as soon as it was started."""

    def __init__(self, *, target: Callable[[], None], **_: object) -> None:
        self._target = target

    def start(self) -> None:
        self._target()


class Output:
    """Standard output: whole lines go to the process that writes them."""

    def __init__(self, world: World) -> None:
        self._world = world

    def write(self, text: str) -> None:
        """Write whole lines."""
        if self._world.current is not None:
            for line in text.splitlines():
                self._world.current.write_line(line)

    def flush(self) -> None:
        """Nothing is held back."""
