"""Callers that wait for an answer about heavy work, and the bodies that wait to be durable.

Payloads and results never enter the core: they are kept here from the call that brings them until its answer, before
which they were written if they were taken at all, and are read from the store after that.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from beeyard_core import limits
from beeyard_core.event import Event, WorkAsked
from beeyard_core.ids import LeaseId, WorkId, lease_id_of
from beeyard_core.refusal import Refused
from beeyard_core.work import Work, WorkState
from beeyard_core.work_ask import Completion, Submission, Told, Withdrawal, WorkAnswer, WorkAsk
from beeyard_runtime.rpc_errors import RpcRefusal

from beeyard_queen.store.work import WorkRow
from beeyard_queen.store.work_rows import work_row_of

#: Nobody waits for the answer to this call.
_NOBODY = 0


@dataclass(slots=True)
class _Call:
    """One ask on its way. `is_disowned`: its caller was told that the store is unavailable."""

    ask: WorkAsk
    waiter: asyncio.Future[WorkAnswer]
    is_disowned: bool = False


@dataclass(slots=True)
class WorkCalls:
    """The way of an ask to the writer and of its answer back.

    Attributes:
        post: Hands an event to the writer.
        payloads: What is being submitted, by work.
        results: What is being released, by lease.
    """

    post: Callable[[Event], None]
    payloads: dict[WorkId, bytes] = field(default_factory=dict)
    results: dict[LeaseId, bytes] = field(default_factory=dict)
    _calls: dict[int, _Call] = field(default_factory=dict)
    _count: int = 0

    @property
    def is_full(self) -> bool:
        """Whether so many callers wait that new ones should be turned away; whoever holds a lease never is."""
        return len(self._calls) >= limits.WORK_CALLS_MAX

    async def ask(self, ask: WorkAsk) -> WorkAnswer:
        """Hand an ask to the writer and return its answer, once everything that it changed is durable.

        A caller that gives up does not stop what it asked for.

        Raises:
            RpcRefusal: The answer is a refusal.
        """
        self._count += 1
        call = _Call(ask, asyncio.get_running_loop().create_future())
        self._calls[self._count] = call
        self.post(WorkAsked(self._count, ask))
        answer = await call.waiter
        if isinstance(answer, Refused):
            raise RpcRefusal(answer)
        return answer

    # --- For the actor ---

    def rows(self, works: Iterable[Work]) -> dict[str, WorkRow]:
        """Return the rows of work that must be saved, with the bodies that are new."""
        return {work.work_id: self._row(work) for work in works}

    def _row(self, work: Work) -> WorkRow:
        is_done = work.state is WorkState.COMPLETED
        result = self.results.get(lease_id_of(work.epoch), b"") if is_done else b""
        return work_row_of(work, payload=self.payloads.get(work.work_id, b""), result=result)

    def answer(self, call_id: int, answer: WorkAnswer) -> None:
        """Answer a call, if somebody still waits for it, and drop its body, which is durable or was not taken."""
        call = self._calls.pop(call_id, None)
        if call is None:
            return
        match call.ask:
            case Submission(work_id=work_id):
                self.payloads.pop(work_id, None)
                if call.is_disowned and answer == Told(work_id):
                    withdrawal = Withdrawal(work_id, "the store was unavailable")
                    self.post(WorkAsked(_NOBODY, withdrawal))
            case Completion(claim):
                self.results.pop(claim.lease_id, None)
            case _:
                pass
        if not call.waiter.done():
            call.waiter.set_result(answer)

    def store_failed(self, refused: Refused) -> None:
        """Tell everybody who waits that nothing was accepted. What becomes durable after all is withdrawn.

        A submission with a request id is not: its submitter asks again and finds it. A lease that nobody was told of
        lapses by itself.
        """
        for call in self._calls.values():
            call.is_disowned = isinstance(call.ask, Submission) and not call.ask.request_id
            if not call.waiter.done():
                call.waiter.set_result(refused)
