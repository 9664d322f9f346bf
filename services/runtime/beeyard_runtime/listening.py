"""Which addresses a service may listen on, for gRPC and HTTP alike, and the one line that says why not."""

import errno
import ipaddress
import socket

from beeyard_runtime.faults import ListenFailed


def allowed_address(listen: str, *, is_protected: bool) -> tuple[str, int]:
    """Return host and port of an address that may be listened on; the host without brackets.

    Args:
        listen: `host:port`.
        is_protected: Whether callers are told apart by tokens and nobody listens in: then any address may be.

    Raises:
        ListenFailed: It is malformed, or not loopback and not protected.
    """
    host, port = _parts_of(listen)
    if is_protected and not host:
        raise _malformed(listen)
    if not (is_protected or is_loopback(host)):
        raise ListenFailed(
            f"refusing to listen on {listen}: without TLS and tokens only loopback addresses are allowed (127.0.0.1, "
            "[::1] or localhost); set tls_cert, tls_key and tokens, which beeyard certs and beeyard tokens make"
        )
    return host, port


def _parts_of(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 0xFFFF:
        raise _malformed(listen)
    return host.removeprefix("[").removesuffix("]"), int(port)


def _malformed(listen: str) -> ListenFailed:
    return ListenFailed(f"cannot listen on {listen!r}: write HOST:PORT, such as 127.0.0.1:7700")


def is_loopback(host: str) -> bool:
    """Whether what is sent to this host stays on this machine; `host` is without port and brackets."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bind_socket(host: str, port: int, listen: str) -> socket.socket:
    """Return a bound socket; close it to have only probed, since gRPC's own error does not say why it failed.

    Args:
        host: Without brackets.
        port: 0: any free one.
        listen: The address as the operator wrote it, for the message.

    Raises:
        ListenFailed: The address is taken, or not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as fault:
        bound.close()
        if fault.errno == errno.EADDRINUSE:
            raise ListenFailed(
                f"cannot listen on {listen}: the port is in use; stop what holds it or choose another port"
            ) from None
        raise ListenFailed(f"cannot listen on {listen}: {fault.strerror}") from None
    return bound
