"""The tokens file: who may call, as what, until when. Written by `beeyard tokens`, read by every service that is told.

A token is `bee_ID_SECRET`: an id that is no secret, and 256 random bits. The file has the SHA-256 of the secret. That
is enough: nobody guesses 256 bits, so there is nothing that a slow hash with a salt would slow down (docs/adr/0033).

Whoever verifies looks at the file at most once a second and reads it again when it was written, so that a revocation
holds within that time. A file that cannot be read any more changes nothing, and is complained about at each look: a
half-written file must not lock out a whole fleet.
"""

import datetime as dt
import hashlib
import hmac
import re
import secrets
import stat
from pathlib import Path
from typing import Annotated, Final, Self

from beeyard_core import limits
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from beeyard_runtime.clock import Clock
from beeyard_runtime.faults import StartFailed
from beeyard_runtime.log import get_log
from beeyard_runtime.security.callers import UNBOUND, Bearer, Caller, Role
from beeyard_runtime.security.dialing import TokenSource

_FORM: Final = re.compile(r"bee_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_Name = Annotated[str, Field(min_length=1, max_length=limits.ID_BYTES_MAX)]
_Id = Annotated[str, Field(max_length=limits.ID_BYTES_MAX)]
_log = get_log("tokens")


class TokenRecord(BaseModel):
    """One token, without what only its bearer knows.

    Attributes:
        token_id: Names it in logs and on the command line.
        name: Whose it is.
        digest: SHA-256 of the secret, hexadecimal.
        roles: What its bearer is.
        tenant_id: For whom a client speaks, and whose work a worker gets; empty: see the roles.
        pool_id: The pool that its bearer is or belongs to.
        worker_id: The only worker of that pool that its bearer may be.
        created: When it was made.
        expires: When it ends; None: never.
        revoked: When it was revoked; None: it was not.
        requests_per_second: How many calls a second it may begin; None: any.
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)

    token_id: str = Field(pattern=r"^[0-9a-f]{12}$")
    name: _Name
    digest: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False)
    roles: frozenset[Role] = Field(min_length=1)
    tenant_id: _Id = ""
    pool_id: _Id = ""
    worker_id: _Id = ""
    created: dt.datetime
    expires: dt.datetime | None = None
    revoked: dt.datetime | None = None
    requests_per_second: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _bound_as_its_roles_need(self) -> Self:
        if Role.CLIENT in self.roles and not self.tenant_id:
            raise ValueError("a client speaks for a tenant: tenant_id must be set")
        if self.tenant_id and self.roles <= UNBOUND | {Role.POOL}:
            raise ValueError("only clients and workers are bound to a tenant")
        if Role.POOL in self.roles and not self.pool_id:
            raise ValueError("a pool manager speaks for a pool: pool_id must be set")
        if self.pool_id and not self.roles & {Role.POOL, Role.WORKER}:
            raise ValueError("only pools and workers are bound to a pool")
        if self.worker_id and (not self.pool_id or Role.POOL in self.roles):
            raise ValueError("only a worker of a pool is bound to a worker_id")
        return self

    def is_good(self, now_ms: int) -> bool:
        """Whether it counts at a moment, wall milliseconds."""
        ends = self.expires
        return self.revoked is None and (ends is None or now_ms < ends.timestamp() * 1_000)

    def bearer(self) -> Bearer:
        """Return who shows it."""
        caller = Caller(
            name=self.name,
            token_id=self.token_id,
            roles=self.roles,
            tenant_id=self.tenant_id,
            pool_id=self.pool_id,
            worker_id=self.worker_id,
        )
        return Bearer(caller, self.requests_per_second)


class TokensFile(BaseModel):
    """Everything in the file."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    tokens: list[TokenRecord] = Field(default_factory=list, max_length=limits.TOKENS_MAX)


def draw_token() -> tuple[str, str, str]:
    """Return a new token, its id, and the digest that is kept of it."""
    token_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    return f"bee_{token_id}_{secret}", token_id, digest_of(secret)


def digest_of(secret: str) -> str:
    """Return what is kept of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def read_tokens(path: Path) -> TokensFile:
    """Return what the file says.

    Raises:
        StartFailed: It cannot be used; the message says what to do.
    """
    try:
        found = path.stat()
        if found.st_size > limits.TOKENS_FILE_BYTES_MAX:
            raise StartFailed(
                f"the tokens file {path} is larger than {limits.TOKENS_FILE_BYTES_MAX} bytes"
            )
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise StartFailed(
                f"the tokens file {path} can be written by others, who could make tokens; chmod 600 it"
            )
        return TokensFile.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise StartFailed(
            f"the tokens file {path} is not there; beeyard tokens create makes it"
        ) from None
    except OSError as fault:
        raise StartFailed(f"the tokens file {path} cannot be read: {fault.strerror}") from None
    except ValidationError as fault:
        error = fault.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in error["loc"])
        raise StartFailed(f"the tokens file {path}: {where}: {error['msg']}") from None


class FileTokens:
    """The tokens of a file, as they are now."""

    def __init__(self, path: Path, clock: Clock) -> None:
        """Read the file.

        Raises:
            StartFailed: It cannot be used.
        """
        self._path = path
        self._clock = clock
        self._seen = _seen(path)
        self._by_id = _by_id(read_tokens(path))
        self._look_at_ms = clock.now().mono_ms + limits.TOKENS_LOOK_MS

    def find(self, token: str) -> Bearer | None:
        """Return who shows a token that counts; None for any other."""
        parts = _FORM.fullmatch(token)
        if parts is None:
            return None
        record = self._by_id.get(parts[1])
        if record is None or not hmac.compare_digest(record.digest, digest_of(parts[2])):
            return None
        return record.bearer() if record.is_good(self._clock.now().wall_ms) else None

    def still_counts(self, token_id: str) -> bool:
        """Whether a token that was let in earlier still counts."""
        record = self._by_id.get(token_id)
        return record is not None and record.is_good(self._clock.now().wall_ms)

    def refresh(self) -> None:
        """Read the file again if it was written and the last look is long enough ago."""
        now_ms = self._clock.now().mono_ms
        if now_ms < self._look_at_ms:
            return
        self._look_at_ms = now_ms + limits.TOKENS_LOOK_MS
        seen = _seen(self._path)
        if seen == self._seen:
            return
        try:
            self._by_id = _by_id(read_tokens(self._path))
        except StartFailed as fault:
            _log.error("tokens_unreadable", fault=str(fault))
            return
        self._seen = seen
        _log.info("tokens_read", count=len(self._by_id))


def _seen(path: Path) -> tuple[int, int, int]:
    """Return what changes when a file is written; zeros for none."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0, 0
    return found.st_mtime_ns, found.st_ino, found.st_size


def _by_id(file: TokensFile) -> dict[str, TokenRecord]:
    return {record.token_id: record for record in file.tokens}


class OwnToken:
    """The verifier of a service that has a token and no file: whoever shows the same one drives this host."""

    def __init__(self, token: TokenSource, pool_id: str) -> None:
        """Take `token`, and no other."""
        self._token = token
        self._pool_id = pool_id

    def find(self, token: str) -> Bearer | None:
        """Return the host itself for its token; None for any other."""
        own = self._token()
        if not own or not hmac.compare_digest(own.encode(), token.encode()):
            return None
        roles = frozenset({Role.POOL, Role.OPERATOR})
        return Bearer(Caller(name=self._pool_id or "self", roles=roles, pool_id=self._pool_id))

    def still_counts(self, token_id: str) -> bool:
        """Whether it still counts: until the process ends."""
        del token_id
        return True

    def refresh(self) -> None:
        """Nothing to do: the source is asked each time."""
