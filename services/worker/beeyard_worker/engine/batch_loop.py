"""Runs an engine step by step, as the batch planner says.

Theory of operation. Each answer has a `Seat`. While there are any, one task goes round: plan, execute, hand out. The
task ends when the last seat is left and begins again with the next one, so an idle engine costs nothing. A reader that
falls behind has its sequence held back, and with it nobody else's; that is the flow control. What breaks a step breaks
every answer that was in the engine, since nobody knows what it left behind there.
"""

import asyncio
from collections.abc import Awaitable, Callable

from beeyard_core import limits
from beeyard_core.batching.planner import BatchPlanner
from beeyard_core.batching.sequence import Sequence, SequenceId
from beeyard_core.batching.step_plan import StepPlan
from beeyard_core.refusal import Refusal
from beeyard_runtime.log import get_log

from beeyard_worker.engine.port import EngineFault

_log = get_log("engine")
#: Executes one step and returns how long it took, in milliseconds.
Execute = Callable[[StepPlan], Awaitable[float]]


class Seat:
    """One answer's place in the batch: how many tokens were made that nobody has taken yet."""

    def __init__(self, sequence_id: SequenceId) -> None:
        """Begin with none."""
        self.sequence_id = sequence_id
        self.unread = 0
        self.fault: EngineFault | None = None
        self.is_held_back = False
        self.changed = asyncio.Event()


class BatchLoop:
    """The steps of one engine."""

    def __init__(self, planner: BatchPlanner, execute: Execute) -> None:
        """Plan with `planner`, compute with `execute`."""
        self._planner = planner
        self._execute = execute
        self._seats: dict[SequenceId, Seat] = {}
        self._turns: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._slots_told = planner.slots_open
        self._on_slots: Callable[[int], None] = lambda _count: None
        self._joined = 0
        #: Steps that were executed; to look at.
        self.steps = 0

    def watch_slots(self, on_change: Callable[[int], None]) -> None:
        """Call `on_change` when another number of sequences should be there; with the present one at once."""
        self._on_slots = on_change
        on_change(self._slots_told)

    def join(self, *, rank: int, prompt_tokens: int, answer_tokens_max: int) -> Seat:
        """Take an answer in. Whoever joins leaves, too.

        Raises:
            EngineFault: The engine's memory could not hold it even alone.
        """
        if not self._planner.fits(prompt_tokens + answer_tokens_max):
            raise EngineFault(
                Refusal.NO_CAPACITY_INCOMPATIBLE_CONTEXT,
                f"the answer may need {prompt_tokens + answer_tokens_max} tokens of KV memory, "
                f"there are {self._planner.pages.tokens_total}",
            )
        self._joined += 1
        seat = Seat(SequenceId(f"sequence-{self._joined}"))
        self._seats[seat.sequence_id] = seat
        self._planner.join(
            Sequence(
                sequence_id=seat.sequence_id,
                rank=rank,
                prompt_tokens=prompt_tokens,
                answer_tokens_max=answer_tokens_max,
            )
        )
        self._changed.set()
        if self._turns is None or self._turns.done():
            self._turns = asyncio.create_task(self._run(), name="engine-steps")
        return seat

    def leave(self, seat: Seat) -> None:
        """Give the seat back, whether the answer ended or not."""
        if self._seats.pop(seat.sequence_id, None) is not None:
            self._planner.leave(seat.sequence_id)
            self._changed.set()

    async def take(self, seat: Seat) -> int:
        """Return how many tokens were made since the last call, 1 or more.

        Raises:
            EngineFault: The step broke, or the engine was closed.
        """
        while not seat.unread:
            if seat.fault is not None:
                raise seat.fault
            seat.changed.clear()
            await seat.changed.wait()
        count, seat.unread = seat.unread, 0
        if seat.is_held_back:
            seat.is_held_back = False
            self._planner.hold_back(seat.sequence_id, is_held_back=False)
            self._changed.set()
        return count

    async def close(self) -> None:
        """Break what runs, and return once no step does."""
        if self._turns is not None:
            self._turns.cancel()
            await asyncio.wait([self._turns])
        self._break(EngineFault(Refusal.WORKER_RESET, "the engine was closed"))

    async def _run(self) -> None:
        try:
            while not self._planner.is_idle:
                await self._turn()
        except EngineFault as fault:
            self._break(fault)
        except Exception:  # noqa: BLE001 - logged here; nobody may wait for a step that a bug ended
            _log.exception("engine_step_broke")
            self._break(EngineFault(Refusal.WORKER_ERROR, "internal error"))

    async def _turn(self) -> None:
        plan = self._planner.begin_step()
        if plan.is_empty:
            # Everybody's reader is behind.
            self._changed.clear()
            await self._changed.wait()
            return
        step_ms = await self._execute(plan)
        self.steps += 1
        for maker in self._planner.end_step(plan, step_ms):
            self._hand_out(self._seats[maker])
        if self._planner.slots_open != self._slots_told:
            self._slots_told = self._planner.slots_open
            self._on_slots(self._slots_told)

    def _hand_out(self, seat: Seat) -> None:
        seat.unread += 1
        seat.changed.set()
        if seat.unread >= limits.BATCH_UNREAD_TOKENS_MAX and not seat.is_held_back:
            seat.is_held_back = self._planner.hold_back(seat.sequence_id, is_held_back=True)

    def _break(self, fault: EngineFault) -> None:
        for seat in list(self._seats.values()):
            seat.fault = fault
            seat.changed.set()
            self.leave(seat)
