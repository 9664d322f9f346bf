"""Who calls: what a token or a certificate says of its bearer, and where the servicers of a call find it."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Final

from beeyard_runtime.security.certificates import PeerName


@unique
class Role(StrEnum):
    """What a caller is to the system; a token may have several."""

    CLIENT = "client"
    OPERATOR = "operator"
    POOL = "pool"
    WORKER = "worker"
    ADMIN = "admin"
    MONITOR = "monitor"


#: Whose rights end at no tenant.
UNBOUND: Final = frozenset({Role.OPERATOR, Role.ADMIN, Role.MONITOR})


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Somebody, as a token or certificate names them.

    Attributes:
        name: For people, logs and the audit trail; empty: nobody in particular.
        token_id: Of its token; empty: it has none.
        roles: What it is.
        tenant_id: For whom it speaks; empty: for no tenant, or for any where its role says so.
        pool_id: The pool that it is, or belongs to; empty: none.
        worker_id: The only worker that it may be; empty: any of its pool.
    """

    name: str = ""
    token_id: str = ""
    roles: frozenset[Role] = frozenset()
    tenant_id: str = ""
    pool_id: str = ""
    worker_id: str = ""


@dataclass(frozen=True, slots=True)
class Bearer:
    """Somebody who showed a token that counts, and how many calls a second it may begin; None: any."""

    caller: Caller
    requests_per_second: float | None = None


#: Where nobody is told apart, everybody is everything.
EVERYBODY: Final = Caller(roles=frozenset(Role))


def caller_of_certificate(peer: PeerName) -> Caller:
    """Return who shows a certificate of a pool or worker."""
    if peer.worker_id:
        roles = frozenset({Role.WORKER})
        name = f"{peer.pool_id}/{peer.worker_id}"
        return Caller(name=name, roles=roles, pool_id=peer.pool_id, worker_id=peer.worker_id)
    return Caller(name=peer.pool_id, roles=frozenset({Role.POOL}), pool_id=peer.pool_id)


@dataclass(frozen=True, slots=True)
class Admission:
    """One call that was let in.

    Attributes:
        caller: Who made it.
        tenant_id: The only tenant whose things it may see and change; None: those of all.
        pool_id: The only pool as which, or as a worker of which, it may speak; None: any.
    """

    caller: Caller = EVERYBODY
    tenant_id: str | None = None
    pool_id: str | None = None

    def owns(self, tenant_id: str) -> bool:
        """Whether the call may see what belongs to a tenant."""
        return self.tenant_id is None or self.tenant_id == tenant_id

    def is_pool(self, pool_id: str) -> bool:
        """Whether the call may speak for a pool."""
        return self.pool_id is None or self.pool_id == pool_id

    def is_worker(self, worker_id: str) -> bool:
        """Whether the call may speak for a worker of its pool."""
        return self.caller.worker_id in ("", worker_id)


OPEN: Final = Admission()
_current: ContextVar[Admission] = ContextVar("admission", default=OPEN)


def current() -> Admission:
    """Return the admission of the call that runs here."""
    return _current.get()


@contextmanager
def admitted(admission: Admission) -> Iterator[None]:
    """Run a call under its admission."""
    token = _current.set(admission)
    try:
        yield
    finally:
        _current.reset(token)
