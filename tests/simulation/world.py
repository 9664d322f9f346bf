"""The world: one clock, processes that may die, stop and be slow, and what is to happen at which moment.

Processes share nothing but the world. Each has an event loop of its own, so a killed one simply never runs again: none
of its `finally` blocks are executed, as with `kill -9`. A stopped one keeps everything and does nothing; its clock goes
on as with SIGSTOP, or stands still as on a suspended machine. Who runs next among those that can is drawn from the
seed. Running takes no time; time passes only when nobody can run.
"""

import heapq
import random
from collections.abc import Callable, Coroutine
from enum import Enum, unique
from typing import Any, Final, NoReturn

from tests.simulation.event_loop import ProcessLoop

US_PER_MS: Final = 1_000
#: Where the clocks begin: long after the machine's start, in a year like any other.
_MONO_START_US: Final = 1_000_000_000
WALL_START_MS: Final = 1_700_000_000_000
#: A process that is given its turn so often without time passing is caught in a loop.
_TURNS_AT_ONE_TIME_MAX: Final = 20_000
#: How often a process goes round its event loop in one turn, if it has to; then others may have theirs.
_ROUNDS: Final = (1, 4, 16)


class Broken(AssertionError):
    """Something that must always hold does not: a bug in what is simulated, or in the simulation."""


@unique
class Life(Enum):
    """Where in its life a process is."""

    RUNNING = "running"
    #: It does nothing until it is continued.
    STOPPED = "stopped"
    #: It never does anything again.
    DEAD = "dead"


class Process:
    """One process of the world.

    Attributes:
        name: Who it is; a restarted process has the name of the one before.
        host: The machine that it runs on; machines share a wall clock.
        chance: Its own source of chance.
        parts: What the code in it made and the ledger looks at, by kind.
        lines: What it wrote to its standard output.
        exit_code: How it ended by itself; None: it did not, or was killed.
    """

    def __init__(self, world: "World", name: str, host: str, seed: int) -> None:
        self.world = world
        self.name = name
        self.host = host
        self.chance = random.Random(seed)
        # Abstract to mypy alone; what is not there, the services do not use.
        self.loop = ProcessLoop(self)  # type: ignore[abstract]
        self.life = Life.RUNNING
        self.behind_us = 0
        self.parts: dict[str, Any] = {}
        self.lines: list[str] = []
        self.exit_code: int | None = None
        self.ask_to_stop: Callable[[], None] = lambda: None
        self.on_end: list[Callable[[], None]] = []
        self.on_line: list[Callable[[str], None]] = []
        self._stopped_us = 0
        self._suspended = False

    @property
    def mono_us(self) -> int:
        """Its monotonic clock, microseconds."""
        return self.world.now_us - self.behind_us + _MONO_START_US

    @property
    def wall_ms(self) -> int:
        """Its wall clock, milliseconds since the epoch."""
        return WALL_START_MS + self.world.now_us // US_PER_MS + self.world.wall_shift_ms(self.host)

    @property
    def is_alive(self) -> bool:
        """Whether it may ever do something again."""
        return self.life is not Life.DEAD

    @property
    def is_running(self) -> bool:
        """Whether it may do something now."""
        return self.life is Life.RUNNING

    def begin(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `main` as the process; when it returns or breaks the process ends."""
        self.loop.call_soon(lambda: self.loop.create_task(self._live(main)))

    async def _live(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await main()
        except Exception as fault:  # noqa: BLE001 - how a process ends is for its parent to judge
            self.exit_code = 1
            self.world.on_fault(self, fault)
        else:
            self.exit_code = 0
        finally:
            self.end()

    def end(self) -> None:
        """Be dead from now on."""
        if self.life is Life.DEAD:
            return
        self.life = Life.DEAD
        self.world.buried(self)
        for told in self.on_end:
            told()

    def stop(self, *, suspend: bool) -> None:
        """Do nothing until `go_on`; with `suspend` the clock stands still, too."""
        if self.life is Life.RUNNING:
            self.life = Life.STOPPED
            self._stopped_us, self._suspended = self.world.now_us, suspend

    def go_on(self) -> None:
        """Do again what a stop interrupted."""
        if self.life is Life.STOPPED:
            self.life = Life.RUNNING
            if self._suspended:
                self.behind_us += self.world.now_us - self._stopped_us

    def write_line(self, line: str) -> None:
        """Write a line to standard output."""
        self.lines.append(line)
        for told in self.on_line:
            told(line)

    def forgotten_fault(self, context: dict[str, Any]) -> None:
        """A task or callback broke and nobody looked."""
        if self.is_alive:
            fault = context.get("exception")
            self.world.breaks(f"{self.name}: {context.get('message')}: {fault!r}")


class World:
    """Everything that there is.

    Attributes:
        now_us: The time since the beginning, microseconds.
        chance: What the world itself draws from.
        current: The process whose code runs.
        broken: The first thing that did not hold.
        after_turn: Called after each turn of a process.
        steps: How many turns there were.
    """

    def __init__(self, seed: int) -> None:
        self.now_us = 0
        self.chance = random.Random(f"world {seed}")
        self.current: Process | None = None
        self.processes: list[Process] = []
        self.everybody: list[Process] = []
        self.after_turn: list[Callable[[Process], None]] = []
        self.on_fault: Callable[[Process, Exception], None] = lambda process, fault: None
        self.note: Callable[[str], None] = lambda line: None
        self.steps = 0
        self.broken: Broken | None = None
        self._agenda: list[tuple[int, int, Callable[[], None]]] = []
        self._number = 0
        self._wall_shifts: dict[str, int] = {}
        self._turns_at_this_time = 0

    @property
    def now_ms(self) -> int:
        """The time since the beginning, milliseconds."""
        return self.now_us // US_PER_MS

    def spawn(self, name: str, host: str) -> Process:
        """Make a process; `begin` runs it."""
        process = Process(self, name, host, self.chance.getrandbits(64))
        self.processes.append(process)
        self.everybody.append(process)
        return process

    def buried(self, process: Process) -> None:
        """A process is dead; it is in nobody's way any more."""
        # Another list, since somebody may be walking over this one.
        self.processes = [other for other in self.processes if other is not process]

    def at(self, delay_us: int, act: Callable[[], None]) -> None:
        """Let something happen after `delay_us` microseconds; it belongs to no process."""
        self._number += 1
        heapq.heappush(self._agenda, (self.now_us + max(delay_us, 0), self._number, act))

    def wall_shift_ms(self, host: str) -> int:
        """Return how far the wall clock of a machine is off, milliseconds."""
        return self._wall_shifts.get(host, 0)

    def jump_wall(self, host: str, ms: int) -> None:
        """Let the wall clock of a machine jump."""
        self._wall_shifts[host] = self.wall_shift_ms(host) + ms

    def breaks(self, what: str) -> NoReturn:
        """Something does not hold that must: remember it, whatever the code that runs makes of the exception.

        Raises:
            Broken: Always.
        """
        self.broken = self.broken or Broken(what)
        raise self.broken

    def run_until(self, is_over: Callable[[], bool], limit_ms: int) -> bool:
        """Let the world go on until a condition holds or the time `limit_ms` is reached; return whether it holds.

        The condition is looked at whenever nobody has anything to do at the present time.
        """
        limit_us = limit_ms * US_PER_MS
        while True:
            ready = [p for p in self.processes if p.loop.ready and p.life is Life.RUNNING]
            if ready:
                self._turn(ready[0] if len(ready) == 1 else self.chance.choice(ready))
                continue
            if is_over():
                return True
            next_us = self._next_us()
            if next_us is None or next_us > limit_us:
                self.now_us = max(self.now_us, limit_us)
                return False
            self._advance(next_us)

    def _turn(self, process: Process) -> None:
        self._turns_at_this_time += 1
        if self._turns_at_this_time > _TURNS_AT_ONE_TIME_MAX:
            self.breaks(f"{process.name} goes on and on at {self.now_ms} ms")
        self.current = process
        try:
            for _ in range(self.chance.choice(_ROUNDS)):
                process.loop.run_ready()
                if not process.loop.ready or not process.is_alive:
                    break
        finally:
            self.current = None
        self.steps += 1
        for look in self.after_turn:
            look(process)
        if self.broken is not None:
            raise self.broken

    def _next_us(self) -> int | None:
        """Return when something happens next."""
        due = self._agenda[0][0] if self._agenda else None
        for process in self.processes:
            if process.life is Life.RUNNING:
                timer_us = process.loop.next_timer_us
                if timer_us is not None:
                    at_us = timer_us + process.behind_us - _MONO_START_US
                    if due is None or at_us < due:
                        due = at_us
        return due

    def _advance(self, to_us: int) -> None:
        """Move the clock and make ready what is due."""
        if to_us > self.now_us:
            self.now_us, self._turns_at_this_time = to_us, 0
        while self._agenda and self._agenda[0][0] <= self.now_us:
            heapq.heappop(self._agenda)[2]()
        for process in self.processes:
            if process.life is Life.RUNNING:
                process.loop.wake(process.mono_us)

    def dispose(self) -> None:
        """Let go of everything: the tasks of every process, killed ones included, end where nobody can see it.

        Otherwise they would end one by one as rubbish is collected, in the middle of another world.
        """
        self._agenda.clear()
        for process in self.everybody:
            process.life = Life.DEAD
            process.on_end.clear()
        for process in self.everybody:
            self.current = process
            process.loop.wind_up()
            self.current = None
        self.everybody.clear()
        self.processes.clear()
