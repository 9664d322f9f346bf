"""A lease that is held for as long as a block of code runs.

It is asked for until it is granted, kept alive by heartbeats beside the block, and given back with the block's
outcome. When it is lost, the block is cancelled from within, as by `asyncio.timeout`, and `LeaseLostError` takes the
place of the cancellation. It is lost when the queen says so, and when no heartbeat got through for its time to live,
counted on this process's own clock from before the last heartbeat that did: then the queen may have given the work to
somebody else.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Final, Protocol, Self

import grpc

from beeyard_client import limits
from beeyard_client.errors import BeeyardError, LinkBrokenError
from beeyard_client.resume import Pauses
from beeyard_client.work import (
    Denial,
    Grant,
    Json,
    Lease,
    LeaseDeniedError,
    LeaseLostError,
    Work,
)

#: The queen judged: this lease is not (any more) ours.
_LOST: Final = frozenset({"STALE_EPOCH", "LEASE_NOT_FOUND", "LEASE_HOLDER_MISMATCH"})


class LeaseCalls(Protocol):
    """What a held lease asks of the queen."""

    async def request_lease(
        self,
        worker_id: str,
        *,
        kinds: Sequence[str],
        capacity_units_max: int,
        pool_id: str,
        work_id: str,
    ) -> Grant | Denial:
        """Ask for a lease; answered at once."""
        ...

    async def heartbeat(self, lease: Lease) -> Lease:
        """Keep it alive."""
        ...

    async def report_progress(
        self, lease: Lease, progress: float, message: str, measurements: Mapping[str, float]
    ) -> Lease:
        """Say how far the work is."""
        ...

    async def complete_work(self, lease: Lease, result: Json) -> Work:
        """Give it back: done."""
        ...

    async def fail_work(self, lease: Lease, message: str, *, retriable: bool) -> Work:
        """Give it back: broken."""
        ...

    async def cancel_work(self, work_id: str, reason: str) -> Work:
        """Let work that still waits not run."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Which lease is wanted, and how patiently; see `WorkCalls.lease`."""

    worker_id: str
    kinds: tuple[str, ...] = ()
    capacity_units_max: int = 0
    pool_id: str = ""
    patience_ms: int | None = None
    on_denied: Callable[[Denial], None] | None = None


class HeldLease:
    """One lease; use it as an async context manager, once.

    Attributes:
        result: What came of the work; set it in the block.
        ended: The work as it ended; set after the block, unless the lease was lost.
    """

    def __init__(
        self,
        calls: LeaseCalls,
        pauses: Pauses,
        wish: Wish,
        submit: Callable[[], Awaitable[str]] | None = None,
    ) -> None:
        """Describe a lease; nothing is asked before the `async with` block.

        Args:
            calls: The queen.
            pauses: Clock and chance.
            wish: Which lease.
            submit: Queues the work that the lease is for and returns its id; None: work of others is taken.
        """
        self.result: Json = MappingProxyType({})
        self.ended: Work | None = None
        self._calls = calls
        self._pauses = pauses
        self._wish = wish
        self._submit = submit
        self._grant: Grant | None = None
        self._safe_until_ms = 0.0
        self._lost: LeaseLostError | None = None
        self._body: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._has_cancelled = False
        self._beating: asyncio.Task[None] | None = None

    @property
    def lease(self) -> Lease:
        """The lease as it was granted."""
        return self._granted().lease

    @property
    def work(self) -> Work:
        """The work with its payload, as it was when the lease was granted."""
        return self._granted().work

    def _granted(self) -> Grant:
        if self._grant is None:
            raise BeeyardError("LEASE_NOT_HELD", "there is a lease only inside its block")
        return self._grant

    async def report(
        self,
        progress: float,
        message: str = "",
        measurements: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """Say how far the work is, 0 to 1, in a sentence and in figures."""
        await self._calls.report_progress(self.lease, progress, message, measurements)

    # --- Getting it ---

    async def __aenter__(self) -> Self:
        """Wait for the lease.

        Raises:
            LeaseDeniedError: There was none within the patience.
        """
        work_id = await self._submit() if self._submit is not None else ""
        try:
            self._grant = await self._acquire(work_id)
        except BaseException:
            if work_id:
                await self._withdraw(work_id)
            raise
        self._body = asyncio.current_task()
        self._cancelling = self._body.cancelling() if self._body is not None else 0
        self._beating = asyncio.create_task(self._beat(self._grant.lease))
        return self

    async def _acquire(self, work_id: str) -> Grant:
        wish, began_ms = self._wish, self._pauses.now_ms()
        while True:
            asked_ms = self._pauses.now_ms()
            outcome = await self._calls.request_lease(
                wish.worker_id,
                kinds=wish.kinds,
                capacity_units_max=wish.capacity_units_max,
                pool_id=wish.pool_id,
                work_id=work_id,
            )
            if isinstance(outcome, Grant):
                self._safe_until_ms = asked_ms + outcome.lease.ttl_ms
                return outcome
            if wish.on_denied is not None:
                wish.on_denied(outcome)
            wait_ms = self._wait_ms(outcome)
            waited_ms = self._pauses.now_ms() - began_ms
            if work_id and outcome.reason == "NO_WORK":
                # It was queued a moment ago, so it ended meanwhile: by its deadline, or by an operator.
                message = "the work ended before it was leased"
                raise LeaseDeniedError("NO_WORK", message, metadata={"work_id": work_id})
            if wish.patience_ms is not None and waited_ms + wait_ms > wish.patience_ms:
                raise LeaseDeniedError(
                    outcome.reason, outcome.message, retry_after_ms=outcome.retry_after_ms
                )
            await self._pauses.sleep_ms(wait_ms)

    def _wait_ms(self, denial: Denial) -> float:
        asked_ms = max(denial.retry_after_ms, limits.LEASE_POLL_MS_MIN)
        # A tenth by chance: a thousand processes that were denied together do not come back together.
        return min(asked_ms, limits.RETRY_AFTER_MS_MAX) * (0.9 + 0.1 * self._pauses.jitter())

    async def _withdraw(self, work_id: str) -> None:
        """Leave nothing behind in the queue; a queen that cannot be told expires it by its deadline, if it has one."""
        try:
            await asyncio.shield(self._calls.cancel_work(work_id, "its submitter gave up"))
        except BeeyardError:
            pass  # what made us give up is what the caller must hear

    # --- Keeping it ---

    async def _beat(self, lease: Lease) -> None:
        """Heartbeat until the lease is lost. The first goes at once: it says that the work runs."""
        while self._lost is None:
            sent_ms = self._pauses.now_ms()
            try:
                async with asyncio.timeout(max(self._safe_until_ms - sent_ms, 1.0) / 1000):
                    await self._calls.heartbeat(lease)
                self._safe_until_ms = sent_ms + lease.ttl_ms
                wait_ms = float(lease.heartbeat_interval_ms)
            except BeeyardError as error:
                if error.reason in _LOST:
                    self._lose(LeaseLostError(error.reason, error.message, code=error.code))
                    return
                wait_ms = float(limits.RECONNECT_MIN_MS)
            except TimeoutError:
                wait_ms = 0.0
            left_ms = self._safe_until_ms - self._pauses.now_ms()
            if left_ms <= 0:
                message = f"no heartbeat reached the queen for {lease.ttl_ms} ms; stop the work"
                self._lose(LeaseLostError("LEASE_LOST", message))
                return
            await self._pauses.sleep_ms(min(wait_ms, left_ms))

    def _lose(self, error: LeaseLostError) -> None:
        self._lost = error
        if self._body is not None:
            self._has_cancelled = True
            self._body.cancel()

    # --- Giving it back ---

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Tell the queen how the work ended.

        Raises:
            LeaseLostError: The lease was lost, so nothing of the work counts.
        """
        # From here on a lost lease cancels nobody: this code looks at it itself.
        body, self._body = self._body, None
        is_ours = True
        if self._has_cancelled and body is not None:
            # Only the cancellation that we sent ourselves is taken back; somebody else's goes on.
            is_ours = body.uncancel() <= self._cancelling
        await self._stop_beating()
        if self._lost is not None:
            if is_ours or not isinstance(error, asyncio.CancelledError):
                raise self._lost from error
            return
        try:
            await self._release(error)
        except BeeyardError as fault:
            if fault.reason in _LOST:
                raise LeaseLostError(fault.reason, fault.message, code=fault.code) from error
            if error is None:
                raise
            # The block's own exception is the story; the lease lapses by itself.

    async def _stop_beating(self) -> None:
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)

    async def _release(self, error: BaseException | None) -> None:
        if error is None:
            done = self._tell(lambda: self._calls.complete_work(self.lease, self.result))
            self.ended = await done
            return
        is_stopped = isinstance(error, (asyncio.CancelledError, KeyboardInterrupt, SystemExit))
        message = "its holder was stopped" if is_stopped else _sentence(error)
        failing = self._tell(
            lambda: self._calls.fail_work(self.lease, message, retriable=is_stopped)
        )
        self.ended = await (asyncio.shield(failing) if is_stopped else failing)

    async def _tell(self, release: Callable[[], Awaitable[Work]]) -> Work:
        """Say how it ended; to a queen that is away, for a time to live: one that comes back still knows the lease."""
        give_up_ms = self._pauses.now_ms() + self.lease.ttl_ms
        while True:
            try:
                return await release()
            except BeeyardError as fault:
                is_away = fault.code is grpc.StatusCode.UNAVAILABLE
                if not is_away and not isinstance(fault, LinkBrokenError):
                    raise
                if self._pauses.now_ms() >= give_up_ms:
                    raise
                await self._pauses.sleep_ms(limits.RECONNECT_MAX_MS / 4)


def _sentence(error: BaseException) -> str:
    """Return an exception in one line that the queen takes."""
    text = " ".join(str(error).split()) or type(error).__name__
    raw = text.encode("utf-8", "replace")
    return raw[: limits.WORK_TEXT_BYTES_MAX].decode("utf-8", "ignore")
