"""A lab with an authority of its own: certificates for tests, as files in a temporary folder.

lab = Lab(tmp_path)
queen = lab.certificate("queen", hosts=["queen.lab"])
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from beeyard_runtime.config import ServiceSettings
from beeyard_runtime.security.certificates import PeerName, issue, make_authority
from beeyard_runtime.security.private_file import write_new
from beeyard_runtime.security.tls import Tls, read_tls

NOW = dt.datetime.now(dt.UTC)
NOW_MS = int(NOW.timestamp() * 1_000)


@dataclass(frozen=True)
class Shown:
    """The two files of one certificate."""

    cert: Path
    key: Path


class Lab:
    """An authority and what it signed."""

    def __init__(self, folder: Path, name: str = "test lab") -> None:
        self.folder = folder
        made = make_authority(name, days=30, now=NOW)
        self._authority = (made.cert, made.key)
        self.ca = folder / f"{name.replace(' ', '-')}.pem"
        write_new(self.ca, made.cert)

    def certificate(
        self,
        name: str,
        *,
        hosts: Sequence[str] = (),
        peer: PeerName | None = None,
        days: int = 20,
        now: dt.datetime = NOW,
    ) -> Shown:
        made = issue(self._authority, name, hosts=hosts, peer=peer, days=days, now=now)
        shown = Shown(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        write_new(shown.cert, made.cert)
        write_new(shown.key, made.key)
        return shown

    def settings(
        self, shown: Shown | None = None, *, needs_client_cert: bool = False
    ) -> ServiceSettings:
        return ServiceSettings(
            tls_cert=shown.cert if shown else None,
            tls_key=shown.key if shown else None,
            tls_ca=self.ca,
            tls_client_certs="required" if needs_client_cert else "ignored",
        )

    def tls(self, shown: Shown | None = None, *, needs_client_cert: bool = False) -> Tls:
        return read_tls(self.settings(shown, needs_client_cert=needs_client_cert), now_ms=NOW_MS)
