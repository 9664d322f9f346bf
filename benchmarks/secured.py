"""TLS with certificates at both ends and tokens, for the processes of a benchmark and for its client."""

import datetime as dt
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
from beeyard_client.cli import secured
from beeyard_runtime.clock import SystemClock
from beeyard_runtime.config import ServiceSettings
from beeyard_runtime.rpc_channel import open_channel
from beeyard_runtime.security.callers import Role
from beeyard_runtime.security.dialing import Dialing
from beeyard_runtime.security.lab_command import furnish
from beeyard_runtime.security.renewal import TlsFiles
from beeyard_runtime.security.token_file import TokenRecord, draw_token
from beeyard_runtime.security.tokens_command import keep_token

POOL = "bench"


@dataclass(frozen=True, slots=True)
class Secured:
    """A folder with everything that is shown."""

    folder: Path

    @property
    def queen(self) -> list[str]:
        """Flags of the queen."""
        return self._lab.queen_flags()

    @property
    def worker(self) -> list[str]:
        """Flags of the worker, which takes its own token from whoever speaks with it directly."""
        return [*self._lab.pool_flags(), f"--token-file={self.folder / 'pool.token'}"]

    @property
    def gateway(self) -> list[str]:
        """Flags of the gateway."""
        return self._lab.gateway_flags()

    def token(self, who: str) -> str:
        """Return what is shown to the queen and the gateway (`me`), or to the worker (`pool`)."""
        return (self.folder / f"{who}.token").read_text(encoding="ascii").strip()

    def dialing(self, who: str) -> Dialing:
        """Return how a channel is opened that shows it."""
        files = {"cert": "me.pem", "key": "me.key", "ca": "ca.pem"}
        named = {f"tls_{name}": self.folder / file for name, file in files.items()}
        token = self.token(who)
        return Dialing(TlsFiles(ServiceSettings(**named), SystemClock()), lambda: token)  # type: ignore[arg-type]

    def context(self) -> ssl.SSLContext:
        """Return what a client of the gateway believes."""
        return ssl.create_default_context(cafile=self.folder / "ca.pem")

    @property
    def _lab(self) -> secured.Secured:
        return secured.Secured(self.folder)


def channel_to(address: str, lab: Secured | None, who: str) -> grpc.aio.Channel:
    """Open a channel, plain where nothing is secured."""
    if lab is None:
        return grpc.aio.insecure_channel(address)
    return open_channel(address, dialing=lab.dialing(who))


@contextmanager
def secured_lab() -> Iterator[Secured]:
    """Yield a lab that is gone afterwards."""
    with TemporaryDirectory(prefix="beeyard-bench-") as name:
        folder, now = Path(name), dt.datetime.now(dt.UTC)
        furnish(folder, POOL, now)
        token, token_id, digest = draw_token()
        record = TokenRecord(
            token_id=token_id,
            name=POOL,
            digest=digest,
            roles=frozenset({Role.POOL}),
            pool_id=POOL,
            created=now,
        )
        keep_token(folder / "tokens.json", record, now, token, folder / "pool.token")
        yield Secured(folder)
