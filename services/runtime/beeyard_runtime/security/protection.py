"""What stands between a listener and the world: TLS, and whoever tells callers apart."""

from dataclasses import dataclass
from pathlib import Path

from beeyard_runtime.clock import Clock, SystemClock
from beeyard_runtime.config import ServiceSettings
from beeyard_runtime.log import get_log
from beeyard_runtime.security.audit import AuditTrail
from beeyard_runtime.security.dialing import TokenSource
from beeyard_runtime.security.guard import Guard, Verifier
from beeyard_runtime.security.tls import NO_TLS, TlsSource
from beeyard_runtime.security.token_file import FileTokens, OwnToken

_log = get_log("protection")


@dataclass(frozen=True, slots=True)
class Protection:
    """The protection of the listeners of one process.

    Attributes:
        guard: Whom they let in.
        tls: What they show.
    """

    guard: Guard
    tls: TlsSource = NO_TLS

    @property
    def is_complete(self) -> bool:
        """Whether they may be reached from other machines."""
        return self.tls.now().own is not None and self.guard.is_closed


def unprotected() -> Protection:
    """Return what suits a machine of one's own: no TLS, and everybody is everything."""
    clock = SystemClock()
    return Protection(Guard(None, clock, AuditTrail(None, clock)))


def protect(
    settings: ServiceSettings,
    tls: TlsSource,
    clock: Clock,
    *,
    own_token: TokenSource | None = None,
    pool_id: str = "",
    audit: Path | None = None,
) -> Protection:
    """Return the protection that the settings ask for.

    Args:
        settings: Of the service.
        tls: What was read of them.
        clock: The time.
        own_token: What the service shows to others; without a tokens file, it takes the same.
        pool_id: The host that it belongs to, with that token or certificate; empty: none.
        audit: Where the audit trail is kept; None: in the log only.

    Raises:
        StartFailed: A file cannot be used.
    """
    verifier: Verifier | None = None
    own_pool = ""
    if settings.tokens is not None:
        verifier = FileTokens(settings.tokens, clock)
    elif own_token is not None or (pool_id and tls.now().needs_client_cert):
        verifier, own_pool = OwnToken(own_token or _no_token, pool_id), pool_id
    else:
        _log.info("open_to_everybody", advice="set tokens to tell callers apart")
    trail = AuditTrail(audit, clock)
    trail.open()
    return Protection(Guard(verifier, clock, trail, own_pool=own_pool), tls)


def _no_token() -> str:
    return ""
