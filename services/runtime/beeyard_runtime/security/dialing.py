"""How this process shows itself to those whom it dials: by a certificate, by a token, or not at all."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from beeyard_core import limits
from pydantic import SecretStr

from beeyard_runtime.faults import ConfigInvalid, StartFailed
from beeyard_runtime.security.tls import NO_TLS, TlsSource

#: The metadata key and the HTTP header, in the form in which gRPC wants keys, and how its value begins.
AUTHORIZATION: Final = "authorization"
BEARER: Final = "Bearer "

#: Returns the token that goes with a call; empty: none.
TokenSource = Callable[[], str]


@dataclass(frozen=True, slots=True)
class Dialing:
    """What a channel shows.

    Attributes:
        tls: Whose certificates count there, and which one is shown.
        token: Goes with each call; None: never any.
        server_name: Under which name the other side's certificate must be good; empty: the address.
    """

    tls: TlsSource = NO_TLS
    token: TokenSource | None = None
    server_name: str = ""


PLAIN = Dialing()


def token_source(token: SecretStr, token_file: Path | None) -> TokenSource | None:
    """Return the token that the settings give; None: none.

    Raises:
        ConfigInvalid: There are two.
        StartFailed: The file cannot be read.
    """
    given = token.get_secret_value()
    if given and token_file is not None:
        raise ConfigInvalid("set token or token_file, not both")
    if token_file is not None:
        source = _TokenFile(token_file)
        source()
        return source
    return (lambda: given) if given else None


class _TokenFile:
    """A token in a file, read again whenever the file was written, so that a new one needs no restart."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = (0, 0)
        self._token = ""

    def __call__(self) -> str:
        try:
            found = self._path.stat()
            seen = (found.st_mtime_ns, found.st_ino)
            if seen != self._seen:
                if found.st_size > limits.TOKEN_BYTES_MAX * 2:
                    raise StartFailed(f"the token file {self._path} holds more than a token")
                self._token = self._path.read_text(encoding="ascii").strip()
                self._seen = seen
        except (OSError, UnicodeDecodeError):
            # Between two writes the old one still serves.
            if not self._token:
                raise StartFailed(f"the token file {self._path} cannot be read") from None
        return self._token


def token_in(header: str) -> str:
    """Return the token in the value of an Authorization header; empty for any other scheme."""
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.lower() == BEARER.strip().lower() else ""
