"""Certificates of this process and of those whom it trusts, as they are at one moment, judged when they are read.

A file that does not fit another, or has expired, is told with its name when the process starts, and not as a broken
handshake hours later. What is renewed while it runs, `renewal` notices.
"""

import datetime as dt
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grpc
from beeyard_core import limits
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from beeyard_runtime.config import ServiceSettings
from beeyard_runtime.faults import ConfigInvalid, StartFailed
from beeyard_runtime.log import get_log
from beeyard_runtime.security.certificates import names_in

_log = get_log("tls")
_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Certificate:
    """What this process shows: its certificate with the chain, and its key, as files and as their bytes (PEM)."""

    cert_path: Path
    key_path: Path
    cert: bytes
    key: bytes

    @property
    def name(self) -> str:
        """A name for which the certificate is good; empty if it has none."""
        hosts, _ = names_in(x509.load_pem_x509_certificates(self.cert)[0])
        return next((host for host in hosts if not host.startswith("*")), "")


@dataclass(frozen=True, slots=True)
class Tls:
    """Everything about TLS that a process was given.

    Attributes:
        own: What it shows, as a server and as a client; None: it serves without TLS.
        ca_path: The file of the authorities.
        ca: Whose signatures it believes (PEM); None: it dials without TLS.
        needs_client_cert: Whether callers must show a certificate.
    """

    own: Certificate | None = None
    ca_path: Path | None = None
    ca: bytes | None = None
    needs_client_cert: bool = False

    def warn_of_end(self, now_ms: int) -> None:
        """Complain in the log if what is shown ends soon, or has ended."""
        if self.own is not None:
            _warn_of_end(x509.load_pem_x509_certificates(self.own.cert)[0], "tls_cert", now_ms)

    def now(self) -> "Tls":
        """Return itself, which does not change."""
        return self

    def server_credentials(self) -> grpc.ServerCredentials | None:
        """Return what a gRPC server listens with; None: without TLS."""
        if self.own is None:
            return None
        pair = (self.own.key, self.own.cert)
        ca = self.ca if self.needs_client_cert else None
        return grpc.ssl_server_credentials([pair], ca, self.needs_client_cert)

    def server_configuration(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the same for a server that may be given another one later; None: without TLS."""
        if self.own is None:
            return None
        ca = self.ca if self.needs_client_cert else None
        return grpc.ssl_server_certificate_configuration([(self.own.key, self.own.cert)], ca)

    def server_context(self) -> ssl.SSLContext | None:
        """Return what an HTTPS server listens with; None: without TLS.

        Raises:
            ssl.SSLError: The files, which are read again, are not a pair any more.
            OSError: They are not there any more.
        """
        if self.own is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.own.cert_path, self.own.key_path)
        if self.needs_client_cert and self.ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=self.ca.decode("ascii", "replace"))
        return context

    def channel_credentials(self) -> grpc.ChannelCredentials | None:
        """Return what a gRPC channel dials with; None: without TLS."""
        if self.ca is None:
            return None
        own = self.own
        return grpc.ssl_channel_credentials(
            self.ca, own.key if own else None, own.cert if own else None
        )


NO_TLS = Tls()


class TlsSource(Protocol):
    """TLS that may change while the process runs."""

    def now(self) -> Tls:
        """Return what counts for a new connection."""

    def server_credentials(self) -> grpc.ServerCredentials | None:
        """Return what a gRPC server listens with; None: without TLS."""

    def server_context(self) -> ssl.SSLContext | None:
        """Return what an HTTPS server listens with; None: without TLS."""


def read_tls(settings: ServiceSettings, *, now_ms: int) -> Tls:
    """Read what the settings name.

    Args:
        settings: Of the service.
        now_ms: The wall clock, milliseconds.

    Raises:
        ConfigInvalid: A setting needs another.
        StartFailed: A file cannot be used; the message says which and what to do.
    """
    cert, key, ca = settings.tls_cert, settings.tls_key, settings.tls_ca
    if (cert is None) != (key is None):
        missing, there = ("tls_key", "tls_cert") if key is None else ("tls_cert", "tls_key")
        raise ConfigInvalid(f"{missing} must be set together with {there}")
    needs_client_cert = settings.tls_client_certs == "required"
    if needs_client_cert and (ca is None or cert is None):
        raise ConfigInvalid("tls_client_certs = required needs tls_cert, tls_key and tls_ca")
    own = _read_own(cert, key, now_ms) if cert is not None and key is not None else None
    return Tls(own, ca, _read_ca(ca, now_ms) if ca else None, needs_client_cert)


def _read_own(cert_path: Path, key_path: Path, now_ms: int) -> Certificate:
    cert, key = _read(cert_path, "tls_cert"), _read(key_path, "tls_key")
    leaf = _certificates(cert, cert_path, "tls_cert")[0]
    _refuse_out_of_date(leaf, cert_path, "tls_cert", now_ms)
    if key_path.stat().st_mode & stat.S_IRWXO:
        raise StartFailed(
            f"the private key {key_path} (tls_key) is open to everybody on this machine; chmod 600 it"
        )
    try:
        private = serialization.load_pem_private_key(key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        message = "is not a private key in PEM without a passphrase"
        raise StartFailed(f"the file {key_path} (tls_key) {message}") from None
    if private.public_key() != leaf.public_key():
        raise StartFailed(f"the key {key_path} (tls_key) is not that of {cert_path} (tls_cert)")
    return Certificate(cert_path, key_path, cert, key)


def _read_ca(path: Path, now_ms: int) -> bytes:
    raw = _read(path, "tls_ca")
    found = _certificates(raw, path, "tls_ca")
    if len(found) == 1:
        # Of several, an old one may well be expired: that is how authorities are replaced.
        _refuse_out_of_date(found[0], path, "tls_ca", now_ms)
    return raw


def _read(path: Path, setting: str) -> bytes:
    try:
        if path.stat().st_size > limits.PEM_FILE_BYTES_MAX:
            raise StartFailed(
                f"the file {path} ({setting}) is larger than {limits.PEM_FILE_BYTES_MAX} bytes"
            )
        return path.read_bytes()
    except OSError as fault:
        raise StartFailed(f"the file {path} ({setting}) cannot be read: {fault.strerror}") from None


def _certificates(raw: bytes, path: Path, setting: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(raw)
    except ValueError:
        raise StartFailed(f"the file {path} ({setting}) holds no certificate in PEM") from None


def _refuse_out_of_date(
    certificate: x509.Certificate, path: Path, setting: str, now_ms: int
) -> None:
    begins_ms = _ms(certificate.not_valid_before_utc)
    ends_ms = _ms(certificate.not_valid_after_utc)
    ends = f"{certificate.not_valid_after_utc:%Y-%m-%d}"
    if now_ms >= ends_ms:
        raise StartFailed(
            f"the certificate {path} ({setting}) expired on {ends}; issue another, such as by beeyard certs issue"
        )
    if now_ms < begins_ms:
        raise StartFailed(
            f"the certificate {path} ({setting}) is not valid before "
            f"{certificate.not_valid_before_utc:%Y-%m-%d}; is the clock of this machine right?"
        )
    _warn_of_end(certificate, setting, now_ms)


def _warn_of_end(certificate: x509.Certificate, setting: str, now_ms: int) -> None:
    left_ms = _ms(certificate.not_valid_after_utc) - now_ms
    if left_ms < limits.CERT_WARNING_MS:
        event = "certificate_expires_soon" if left_ms > 0 else "certificate_expired"
        _log.warning(event, setting=setting, days=left_ms // _DAY_MS)


def _ms(moment: dt.datetime) -> int:
    return int(moment.timestamp() * 1_000)
