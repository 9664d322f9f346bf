"""What stands between a listener and the world: TLS, and whoever tells callers apart."""

from dataclasses import dataclass

from beeyard_runtime.security.tls import NO_TLS, Tls


@dataclass(frozen=True, slots=True)
class Protection:
    """The protection of one listener.

    Attributes:
        tls: What it shows.
    """

    tls: Tls = NO_TLS

    @property
    def is_complete(self) -> bool:
        """Whether the listener may be reached from other machines."""
        return False


UNPROTECTED = Protection()
