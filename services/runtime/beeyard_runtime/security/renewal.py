"""Certificates that are renewed while the process runs: their files are looked at again whenever somebody new comes.

A connection keeps what it was opened with; each new one, in either direction, gets what the files hold then. They are
looked at once a second at most, judged as at the start, and taken only if they pass: a half-written pair, a wrong key
or an expired certificate changes nothing and is complained about in the log, each second that somebody comes until it
is mended. No thread and no timer is needed for that, since nobody but newcomers asks.
"""

import ssl
from pathlib import Path
from typing import Final, Self

import grpc
from beeyard_core import link_limits

from beeyard_runtime.clock import Clock
from beeyard_runtime.config import ServiceSettings
from beeyard_runtime.faults import StartFailed
from beeyard_runtime.log import get_log
from beeyard_runtime.security.tls import Tls, read_tls

_log = get_log("tls")
_Seen = tuple[tuple[int, int, int], ...]
_ABSENT: Final = (0, 0, 0)


class TlsFiles:
    """The TLS of a process, as its files are now. May be asked on any thread."""

    def __init__(self, settings: ServiceSettings, clock: Clock) -> None:
        """Read the files that the settings name.

        Raises:
            ConfigInvalid: A setting needs another.
            StartFailed: A file cannot be used; the message says which and what to do.
        """
        self._settings = settings
        self._clock = clock
        named = (settings.tls_cert, settings.tls_key, settings.tls_ca)
        self._paths = [path for path in named if path is not None]
        self._seen = _seen(self._paths)
        now = clock.now()
        self._tls = read_tls(settings, now_ms=now.wall_ms)
        self._look_at_ms = now.mono_ms + link_limits.CERTS_LOOK_MS
        self._warn_at_ms = now.mono_ms + link_limits.CERTS_WARN_MS

    def now(self) -> Tls:
        """Return what counts for a new connection."""
        if not self._paths:
            return self._tls
        now = self._clock.now()
        if now.mono_ms >= self._look_at_ms:
            self._look_at_ms = now.mono_ms + link_limits.CERTS_LOOK_MS
            self._look(now.wall_ms)
            if now.mono_ms >= self._warn_at_ms:
                # Whoever should have renewed it may not know that nobody did.
                self._warn_at_ms = now.mono_ms + link_limits.CERTS_WARN_MS
                self._tls.warn_of_end(now.wall_ms)
        return self._tls

    def _look(self, wall_ms: int) -> None:
        seen = _seen(self._paths)
        if seen == self._seen:
            return
        try:
            fresh = read_tls(self._settings, now_ms=wall_ms)
            # What gRPC takes is not always what OpenSSL does: both must, or neither is given it.
            fresh.server_context()
        except (StartFailed, ssl.SSLError, OSError) as fault:
            _log.error("certificates_unusable", fault=str(fault))
            return
        self._seen, self._tls = seen, fresh
        _log.info("certificates_read")

    def server_credentials(self) -> grpc.ServerCredentials | None:
        """Return what a gRPC server listens with, asked again for each connection; None: without TLS."""
        tls = self.now()
        first = tls.server_configuration()
        if first is None:
            return None
        told = [tls]

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            fresh = self.now()
            if fresh is told[0]:
                return None
            told[0] = fresh
            return fresh.server_configuration()

        # None means no change, which gRPC documents and its types do not know.
        return grpc.dynamic_ssl_server_credentials(first, fetch, tls.needs_client_cert)  # type: ignore[arg-type]

    def server_context(self) -> ssl.SSLContext | None:
        """Return what an HTTPS server listens with, asked again for each connection; None: without TLS."""
        return None if self.now().own is None else _RenewedContext(self)


class _RenewedContext(ssl.SSLContext):
    """Hands each new connection to the context of the moment."""

    _files: TlsFiles
    _made: tuple[Tls, ssl.SSLContext]

    def __new__(cls, files: TlsFiles) -> Self:  # noqa: ARG004 - of `__init__`
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        tls = files.now()
        self._made = tls, _required(tls)

    def _current(self) -> ssl.SSLContext:
        tls = self._files.now()
        if tls is not self._made[0]:
            self._made = tls, _required(tls)
        return self._made[1]

    def wrap_bio(self, *args: object, **kwargs: object) -> ssl.SSLObject:
        return self._current().wrap_bio(*args, **kwargs)  # type: ignore[arg-type]

    def wrap_socket(self, *args: object, **kwargs: object) -> ssl.SSLSocket:
        return self._current().wrap_socket(*args, **kwargs)  # type: ignore[arg-type]


def _required(tls: Tls) -> ssl.SSLContext:
    context = tls.server_context()
    assert context is not None, "files that are named stay named"
    return context


def _seen(paths: list[Path]) -> _Seen:
    """Return what changes when one of the files is written."""
    return tuple(_stamp(path) for path in paths)


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return _ABSENT
    return found.st_mtime_ns, found.st_ino, found.st_size
