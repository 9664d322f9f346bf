"""Lets calls in by the table of rights, or keeps them out; and ends streams whose token counts no more.

A guard without a verifier is open: everybody is everything, as suits a machine of one's own. Whoever shows nothing that
is known, too often, is told to wait; a token that counts is never held up by that.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from beeyard_core import limits
from beeyard_core.refusal import Refusal

from beeyard_runtime.clock import Clock
from beeyard_runtime.log import get_log
from beeyard_runtime.rpc_errors import RpcRefusal, refuse
from beeyard_runtime.security.audit import AuditTrail
from beeyard_runtime.security.authorization import Row, TenantRule
from beeyard_runtime.security.callers import (
    EVERYBODY,
    OPEN,
    UNBOUND,
    Admission,
    Bearer,
    Caller,
    caller_of_certificate,
)
from beeyard_runtime.security.certificates import peer_name_of
from beeyard_runtime.security.rates import Rates

_log = get_log("guard")
_NOBODY: Final = Caller()


class Verifier(Protocol):
    """Knows tokens."""

    def find(self, token: str) -> Bearer | None:
        """Return who shows a token that counts; None for any other."""

    def still_counts(self, token_id: str) -> bool:
        """Whether a token that was let in earlier still counts."""

    def refresh(self) -> None:
        """Notice what changed."""


class _Asked(Protocol):
    tenant_id: str


@dataclass(frozen=True, slots=True)
class Shown:
    """What a caller shows: a token, the URIs in its certificate if that was verified, and the address it comes from."""

    token: str = ""
    uris: tuple[str, ...] = ()
    peer: str = ""


@dataclass(slots=True, eq=False)
class _Hold:
    """A stream that was let in."""

    task: "asyncio.Task[object]"
    is_revoked: bool = False


class Guard:
    """Of one process: all its listeners share it."""

    def __init__(
        self, verifier: Verifier | None, clock: Clock, audit: AuditTrail, *, own_pool: str = ""
    ) -> None:
        """Let in whom a verifier or a certificate names.

        Args:
            verifier: Knows tokens; None: everybody is let in.
            clock: The time.
            audit: Where changes are told.
            own_pool: The only pool whose certificate counts; empty: that of any.
        """
        self._verifier = verifier
        self._own_pool = own_pool
        self._clock = clock
        self.audit = audit
        self._calls = Rates(most=limits.TOKENS_MAX)
        self._failures = Rates(most=limits.PEERS_COUNTED_MAX)
        self._held: dict[str, set[_Hold]] = {}

    @property
    def is_closed(self) -> bool:
        """Whether callers are told apart."""
        return self._verifier is not None

    def apart(self) -> "Guard":
        """Return one that knows the same tokens and counts for itself, for another thread."""
        return Guard(self._verifier, self._clock, self.audit, own_pool=self._own_pool)

    def know(self, row: Row | None, shown: Shown) -> Caller:
        """Return who calls.

        Raises:
            RpcRefusal: UNAUTHENTICATED, or QUOTA_EXCEEDED for one that asks too often.
        """
        if self._verifier is None:
            return EVERYBODY
        if row is not None and row.is_open:
            return _NOBODY
        certified = self._certified(shown)
        if not shown.token:
            if certified is not None:
                return certified
            raise self._unknown(shown, "this needs a token, as Authorization: Bearer TOKEN")
        self._verifier.refresh()
        bearer = self._verifier.find(shown.token)
        if bearer is None:
            raise self._unknown(shown, "the token is not known, has expired or was revoked")
        self._hold_to_rate(bearer)
        if certified is not None and bearer.caller.pool_id not in ("", certified.pool_id):
            raise refuse(
                Refusal.PERMISSION_DENIED, "the token is of another pool than the certificate"
            )
        return bearer.caller

    def authorize(self, row: Row | None, caller: Caller) -> Admission:
        """Return what a caller may see of what a row opens.

        Raises:
            RpcRefusal: PERMISSION_DENIED.
        """
        if self._verifier is None:
            return OPEN
        if row is not None and row.roles is None:
            return Admission(caller, tenant_id="", pool_id="")
        roles = caller.roles & row.roles if row is not None and row.roles else frozenset()
        if not roles:
            raise refuse(Refusal.PERMISSION_DENIED, _who_may(row, caller))
        is_bound = not roles & UNBOUND
        return Admission(
            caller,
            tenant_id=caller.tenant_id if is_bound and caller.tenant_id else None,
            pool_id=caller.pool_id if is_bound else None,
        )

    def bind(self, row: Row | None, admission: Admission, request: object) -> None:
        """Hold a request to the caller's tenant.

        Raises:
            RpcRefusal: PERMISSION_DENIED: it asks for another one.
        """
        if row is None or row.tenant is not TenantRule.ASKED or admission.tenant_id is None:
            return
        asked: _Asked = request  # type: ignore[assignment]  # a test goes through all such requests
        if asked.tenant_id not in ("", admission.tenant_id):
            raise other_tenant(admission.tenant_id)
        asked.tenant_id = admission.tenant_id

    @contextmanager
    def holding(self, caller: Caller) -> Iterator[None]:
        """Run a stream, and end it when its token counts no more.

        Raises:
            RpcRefusal: UNAUTHENTICATED, then.
        """
        task = asyncio.current_task()
        if not caller.token_id or task is None:
            yield
            return
        hold = _Hold(task)
        holds = self._held.setdefault(caller.token_id, set())
        holds.add(hold)
        try:
            yield
        except asyncio.CancelledError:
            if not hold.is_revoked:
                raise
            task.uncancel()
            message = "the token has expired or was revoked meanwhile"
            raise refuse(Refusal.UNAUTHENTICATED, message) from None
        finally:
            holds.discard(hold)
            if not holds:
                self._held.pop(caller.token_id, None)

    async def keep(self) -> None:
        """Look after the streams, for ever."""
        while self._verifier is not None:
            await self._clock.sleep_ms(limits.TOKENS_LOOK_MS)
            self._verifier.refresh()
            ended = [one for one in self._held if not self._verifier.still_counts(one)]
            for hold in [hold for token_id in ended for hold in self._held[token_id]]:
                if not hold.is_revoked:
                    hold.is_revoked = True
                    hold.task.cancel()

    def _certified(self, shown: Shown) -> Caller | None:
        names = [name for name in map(peer_name_of, shown.uris) if name is not None]
        # A certificate that names two is no name at all.
        if len(names) != 1 or self._own_pool not in ("", names[0].pool_id):
            return None
        return caller_of_certificate(names[0])

    def _hold_to_rate(self, bearer: Bearer) -> None:
        rate = bearer.requests_per_second
        if rate is None:
            return
        wait_ms = self._calls.take(
            bearer.caller.token_id,
            per_second=rate,
            burst=max(1.0, rate),
            now_ms=self._clock.now().mono_ms,
        )
        if wait_ms:
            message = f"this token may begin {rate:g} calls a second"
            raise _too_often(message, f"token:{bearer.caller.name}", wait_ms)

    def _unknown(self, shown: Shown, message: str) -> RpcRefusal:
        wait_ms = self._failures.take(
            shown.peer,
            per_second=limits.FAILURES_PER_SECOND,
            burst=limits.FAILURES_BURST,
            now_ms=self._clock.now().mono_ms,
        )
        if wait_ms:
            words = "too many calls without a token that is known come from there"
            return _too_often(words, "address", wait_ms)
        _log.warning("unauthenticated", peer=shown.peer, has_token=bool(shown.token))
        return refuse(Refusal.UNAUTHENTICATED, message)


def other_tenant(own: str) -> RpcRefusal:
    """Return the refusal of a request for a tenant that is not the caller's."""
    message = f"the token speaks for the tenant {own}; leave tenant_id empty, or name that one"
    return refuse(Refusal.PERMISSION_DENIED, message, field="tenant_id")


def _too_often(message: str, subject: str, wait_ms: int) -> RpcRefusal:
    return refuse(
        Refusal.QUOTA_EXCEEDED, message, retry_after_ms=wait_ms, metadata={"subject": subject}
    )


def _who_may(row: Row | None, caller: Caller) -> str:
    if row is None or not row.roles:
        return "nobody may do this"
    is_what = ", ".join(sorted(caller.roles))
    return (
        f"this is for {' or '.join(sorted(row.roles))}; {caller.name or 'you'} may act as {is_what}"
    )
