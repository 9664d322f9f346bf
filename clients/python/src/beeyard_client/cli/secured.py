"""What `beeyard up --secure` puts between the processes of its stack, and how people get in.

The services' own package makes certificates and tokens, in a process of its own; here is only where they lie and who is
given which.
"""

import asyncio
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from beeyard_client.access import Access
from beeyard_client.cli.faults import StackFailed

#: Of the folder of the stack.
FOLDER = "secure"


@dataclass(frozen=True, slots=True)
class Secured:
    """A folder with an authority, certificates and tokens."""

    folder: Path

    async def furnish(self, pool_id: str) -> None:
        """Make what is missing there.

        Raises:
            StackFailed: It cannot be made.
        """
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "beeyard_runtime.security", "lab"),
            *("--dir", str(self.folder), "--pool", pool_id),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, stderr = await process.communicate()
        if process.returncode:
            lines = stderr.decode(errors="replace").strip().splitlines()
            why = lines[-1] if lines else f"it ended with {process.returncode}"
            raise StackFailed(f"certificates and tokens could not be made in {self.folder}: {why}")

    def access(self) -> Access:
        """Return how whoever started the stack gets in."""
        token = self._file("me.token").read_text(encoding="ascii").strip()
        return Access(token, self._file("ca.pem"), self._file("me.pem"), self._file("me.key"))

    def queen_flags(self) -> list[str]:
        """Return what the queen is told."""
        return [*self._tls("queen"), *self._required(), "--tokens", str(self._file("tokens.json"))]

    def pool_flags(self) -> list[str]:
        """Return what the pool manager is told; its certificate says which pool it is."""
        return [*self._tls("pool"), *self._required()]

    def gateway_flags(self) -> list[str]:
        """Return what the gateway is told. OpenAI's clients show tokens, and no certificates."""
        tokens = ["--tokens", str(self._file("tokens.json"))]
        return [*self._tls("gateway"), *tokens, "--token-file", str(self._file("gateway.token"))]

    def write_environment(self, queen: str, gateway: str) -> Path:
        """Write a file that a shell reads to be let in; return where it is."""
        access, path = self.access(), self._file("connect.sh")
        names = {
            "BEEYARD_QUEEN": queen,
            "BEEYARD_CA": access.ca,
            "BEEYARD_CERT": access.cert,
            "BEEYARD_KEY": access.key,
            "BEEYARD_TOKEN": access.token,
            "OPENAI_BASE_URL": f"https://{gateway}/v1",
            "OPENAI_API_KEY": access.token,
            "SSL_CERT_FILE": access.ca,
        }
        lines = (f"export {name}={shlex.quote(str(value))}\n" for name, value in names.items())
        path.unlink(missing_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.writelines(lines)
        return path

    def _tls(self, name: str) -> list[str]:
        files = {"cert": f"{name}.pem", "key": f"{name}.key", "ca": "ca.pem"}
        return [f"--tls-{flag}={self._file(file)}" for flag, file in files.items()]

    def _required(self) -> list[str]:
        return ["--tls-client-certs", "required"]

    def _file(self, name: str) -> Path:
        return self.folder / name
