"""The slots of a worker: what runs in them, as a table.

Rule 1: every move that a job in a slot can make is in `TRANSITIONS`; nothing else assigns a state.
Rule 2: an illegal move raises and changes nothing.
Rule 3: a worker never queues. What no slot holds now is refused with `WorkerBusy`; waiting is the
queen's business, since only the queen knows whether another worker is free.
Rule 4: this file knows no clock, engine or stream.

`SingleSlot` is the whole machine for one job at a time; `Slots` is several of them that share a
budget of KV tokens.
"""

from enum import Enum, unique

from beeyard_worker.kv_plan import KvBudget


@unique
class JobState(Enum):
    """Where the job in a slot is."""

    PENDING = "Pending"
    EXECUTING = "Executing"
    COMPLETED = "Completed"
    FAILED = "Failed"


@unique
class JobVerb(Enum):
    """What moves a job on."""

    EXECUTE = "execute"
    COMPLETE = "complete"
    FAIL = "fail"


TRANSITIONS: dict[JobState, dict[JobVerb, JobState]] = {
    # No FAIL here: a job that never executed has nothing that could fail. Whoever gives it up
    # executes it first and then fails it, so that each failed job was an executing one.
    JobState.PENDING: {JobVerb.EXECUTE: JobState.EXECUTING},
    JobState.EXECUTING: {JobVerb.COMPLETE: JobState.COMPLETED, JobVerb.FAIL: JobState.FAILED},
    JobState.COMPLETED: {},
    JobState.FAILED: {},
}
FINISHED = frozenset(state for state, moves in TRANSITIONS.items() if not moves)


class WorkerBusy(Exception):
    """No slot, or too little KV memory, is free: try another worker, or this one later."""


class JobNotFound(Exception):
    """The job is not here: it was never scheduled, or its slot was cleared or reused."""

    def __init__(self, job_id: str) -> None:
        """Keep the job that was asked for."""
        super().__init__(job_id)
        self.job_id = job_id


class IllegalMove(Exception):
    """The job is here, but not in a state for this move: look for a lost or doubled call."""

    def __init__(self, state: JobState, verb: JobVerb) -> None:
        """Keep the state and the move."""
        super().__init__(f"cannot {verb.value} a job that is {state.value}")
        self.state = state
        self.verb = verb


class SingleSlot:
    """One job at a time: Pending -> Executing -> Completed or Failed, then the next."""

    __slots__ = ("current_job", "state")

    def __init__(self) -> None:
        """Start free: no job, and the state that the first one will have."""
        self.current_job: str | None = None
        self.state = JobState.PENDING

    def can_accept(self) -> bool:
        """Whether a job may be scheduled: there is none, or the last one has finished."""
        return self.current_job is None or self.state in FINISHED

    def schedule(self, job_id: str) -> None:
        """Put a job in the slot, Pending.

        Raises:
            WorkerBusy: A job is Pending or Executing.
        """
        if not self.can_accept():
            raise WorkerBusy
        self.current_job = job_id
        self.state = JobState.PENDING

    def mark_executing(self, job_id: str) -> None:
        """Move the job from Pending to Executing.

        Raises:
            JobNotFound: Another job, or none, is in the slot.
            IllegalMove: The job is not Pending.
        """
        self._move(job_id, JobVerb.EXECUTE)

    def mark_completed(self, job_id: str) -> None:
        """Move the job from Executing to Completed.

        Raises:
            JobNotFound: Another job, or none, is in the slot.
            IllegalMove: The job is not Executing.
        """
        self._move(job_id, JobVerb.COMPLETE)

    def mark_failed(self, job_id: str) -> None:
        """Move the job from Executing to Failed.

        Raises:
            JobNotFound: Another job, or none, is in the slot.
            IllegalMove: The job is not Executing.
        """
        self._move(job_id, JobVerb.FAIL)

    def get_state(self, job_id: str) -> JobState:
        """Return the state of the job.

        Raises:
            JobNotFound: Another job, or none, is in the slot.
        """
        if self.current_job != job_id:
            raise JobNotFound(job_id)
        return self.state

    def clear(self) -> None:
        """Forget a finished job; a job that is Pending or Executing stays where it is."""
        if self.state in FINISHED:
            self.current_job = None
            self.state = JobState.PENDING

    def _move(self, job_id: str, verb: JobVerb) -> None:
        state = self.get_state(job_id)
        target = TRANSITIONS[state].get(verb)
        if target is None:
            raise IllegalMove(state, verb)
        self.state = target


class Slots:
    """Several single slots that share one budget of KV tokens; how many are open may change.

    A job holds its slot and its KV tokens from `schedule` until it is Completed or Failed. Its
    state can be asked for until its slot is cleared or taken by another job.
    """

    def __init__(self, count: int, kv_tokens: int) -> None:
        """Start with `count` free slots and a budget of `kv_tokens` tokens."""
        assert count > 0, "a worker without slots has no use"
        self._free = [SingleSlot() for _ in range(count)]
        self._taken: dict[str, SingleSlot] = {}
        self._reserved: dict[str, int] = {}
        self._kv = KvBudget(kv_tokens)
        self.total = count

    def open(self, count: int) -> None:
        """Have so many slots from now on. Jobs in slots beyond them run on; their slots close when they end."""
        assert count > 0, "a worker without slots has no use"
        self._free += [SingleSlot() for _ in range(count - len(self._free) - len(self._taken))]
        self.total = count

    @property
    def free(self) -> int:
        """Open slots that hold no Pending or Executing job; 0 while more run than are open."""
        return max(self.total - len(self._reserved), 0)

    @property
    def kv_tokens_total(self) -> int:
        """The whole KV budget, in tokens."""
        return self._kv.total

    @property
    def kv_tokens_free(self) -> int:
        """KV tokens that are not promised to any job."""
        return self._kv.free

    def can_accept(self, kv_tokens: int) -> bool:
        """Whether a job that needs this many KV tokens may be scheduled now."""
        return self.free > 0 and self._kv.fits(kv_tokens)

    def schedule(self, job_id: str, kv_tokens: int) -> None:
        """Put a job in a free slot, Pending, and promise it its KV tokens.

        Raises:
            WorkerBusy: No slot or too little KV memory is free, or the job is here already.
        """
        if not self.can_accept(kv_tokens) or job_id in self._reserved:
            raise WorkerBusy
        slot = self._free_slot(job_id)
        slot.schedule(job_id)
        self._taken[job_id] = slot
        self._kv.reserve(kv_tokens)
        self._reserved[job_id] = kv_tokens

    def mark_executing(self, job_id: str) -> None:
        """Move the job from Pending to Executing; raises as `SingleSlot.mark_executing` does."""
        self._slot_of(job_id).mark_executing(job_id)

    def mark_completed(self, job_id: str) -> None:
        """Move the job to Completed and free its KV tokens; raises as the single slot does."""
        self._slot_of(job_id).mark_completed(job_id)
        self._kv.release(self._reserved.pop(job_id))

    def mark_failed(self, job_id: str) -> None:
        """Move the job to Failed and free its KV tokens; raises as the single slot does."""
        self._slot_of(job_id).mark_failed(job_id)
        self._kv.release(self._reserved.pop(job_id))

    def get_state(self, job_id: str) -> JobState:
        """Return the state of the job.

        Raises:
            JobNotFound: No slot holds it.
        """
        return self._slot_of(job_id).get_state(job_id)

    def clear(self) -> None:
        """Forget all finished jobs; what is Pending or Executing stays."""
        for job_id in [job_id for job_id in self._taken if job_id not in self._reserved]:
            slot = self._taken.pop(job_id)
            slot.clear()
            self._free.append(slot)

    def _slot_of(self, job_id: str) -> SingleSlot:
        slot = self._taken.get(job_id)
        if slot is None:
            raise JobNotFound(job_id)
        return slot

    def _free_slot(self, job_id: str) -> SingleSlot:
        """Return a slot without a job, or else the one whose job finished first."""
        if job_id in self._taken:
            return self._taken[job_id]
        if self._free:
            return self._free.pop()
        finished = next(done for done in self._taken if done not in self._reserved)
        return self._taken.pop(finished)
