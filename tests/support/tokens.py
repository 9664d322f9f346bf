"""Tokens for tests: a file that services read, and what their bearers show.

tokens = Tokens(tmp_path / "tokens.json")
alice = tokens.add("alice", Role.CLIENT, tenant_id="a")
"""

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

from beeyard_runtime.security.callers import Role
from beeyard_runtime.security.private_file import replace
from beeyard_runtime.security.token_file import TokenRecord, TokensFile, draw_token

CREATED = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
Metadata = Sequence[tuple[str, str]]


class Tokens:
    """A tokens file that grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._records: dict[str, TokenRecord] = {}
        self._write()

    def add(self, name: str, *roles: Role, **bounds: object) -> str:
        """Make a token; a client without a tenant is the default one's."""
        if Role.CLIENT in roles:
            bounds.setdefault("tenant_id", "default")
        token, token_id, digest = draw_token()
        record = {"token_id": token_id, "name": name, "digest": digest, "created": CREATED}
        self._records[name] = TokenRecord.model_validate(
            {**record, "roles": frozenset(roles), **bounds}
        )
        self._write()
        return token

    def revoke(self, name: str) -> None:
        self._records[name] = self._records[name].model_copy(update={"revoked": CREATED})
        self._write()

    def _write(self) -> None:
        file = TokensFile(tokens=list(self._records.values()))
        replace(self.path, file.model_dump_json().encode())


def shows(token: str) -> Metadata:
    """Return the metadata of a call that shows a token; none for an empty one."""
    return (("authorization", f"Bearer {token}"),) if token else ()
