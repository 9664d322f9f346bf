"""The policy versions of the SQLite store: the port on the store's two threads, and every statement that it needs."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import fields
from typing import Any, Final, Protocol, TypeVar

import apsw
from beeyard_core import limits

from beeyard_queen.store.versions import Draft, VersionFilter, VersionRow

T = TypeVar("T")

# In the order of the dataclass; whether a version is active follows from the activations and is no column.
_COLUMNS: Final = ", ".join(
    "activation = (SELECT max(activation) FROM policies)" if f.name == "is_active" else f.name
    for f in fields(VersionRow)
)
_LISTED: Final = _COLUMNS.replace(" text,", " '',")
_NEXT_ACTIVATION: Final = "(SELECT max(activation) + 1 FROM policies)"
_ACTIVE: Final = "activation = (SELECT max(activation) FROM policies)"

_KNOWN: Final = "SELECT version FROM policies WHERE digest = ?"
_KEEP: Final = (
    "INSERT INTO policies (version, name, language, text, digest, author, note, created_ms) "
    "VALUES ((SELECT max(version) + 1 FROM policies), ?, ?, ?, ?, ?, ?, ?)"
)
_SUSPEND: Final = f"UPDATE policies SET suspension = ? WHERE {_ACTIVE}"  # noqa: S608 - made of constants
_ACTIVATE: Final = (
    f"UPDATE policies SET activation = {_NEXT_ACTIVATION}, activated_ms = ?, suspension = '' "  # noqa: S608
    "WHERE version = ?"
)
# The highest number is never forgotten, so none is given twice.
_FORGET: Final = (
    "DELETE FROM policies WHERE version IN (SELECT version FROM policies WHERE version > 0 "
    "AND version < (SELECT max(version) FROM policies) ORDER BY activation "
    "LIMIT max(0, (SELECT count(*) FROM policies WHERE version > 0) - ?))"
)
_ONE: Final = f"SELECT {_COLUMNS} FROM policies WHERE version = ?"  # noqa: S608
_THE_ACTIVE: Final = f"SELECT {_COLUMNS} FROM policies WHERE {_ACTIVE}"  # noqa: S608
_SOME: Final = (
    f"SELECT {_LISTED} FROM policies WHERE version > 0 AND version < ? AND (? = '' OR name = ?) "  # noqa: S608
    "ORDER BY version DESC LIMIT ?"
)
_LAST_GOOD: Final = (
    f"SELECT version FROM policies WHERE activation > 0 AND suspension = '' AND NOT {_ACTIVE} "  # noqa: S608
    "ORDER BY activation DESC LIMIT 1"
)
_ANY_VERSION: Final = 2**63 - 1


class Threads(Protocol):
    """What this half needs of the store: a transaction on the thread that writes, a look on the one that reads."""

    def write(self, work: Callable[[apsw.Connection], T]) -> Awaitable[T]:
        """Run `work` in one transaction and sync it to the disk."""
        ...

    def read(self, work: Callable[[apsw.Connection], T]) -> Awaitable[T]:
        """Run `work` on the connection that reads."""
        ...


class SqliteVersions:
    """The desk's port on the store's file; usable while the store is open."""

    def __init__(self, threads: Threads) -> None:
        """Work on the store's threads."""
        self._threads = threads

    async def deploy(self, draft: Draft, *, at_ms: int) -> VersionRow:
        """Keep a policy and make it the one that decides."""

        def work(connection: apsw.Connection) -> VersionRow:
            known = connection.execute(_KNOWN, (draft.digest,)).get
            if known is None:
                values = (draft.name, draft.language, draft.text, draft.digest, draft.author)
                connection.execute(_KEEP, (*values, draft.note, at_ms))
                known = connection.last_insert_rowid()
            connection.execute(_ACTIVATE, (at_ms, known))
            connection.execute(_FORGET, (limits.POLICY_VERSIONS_KEPT_MAX,))
            return _row(connection.execute(_ONE, (known,)).fetchall()[0])

        return await self._threads.write(work)

    async def activate(
        self, version: int, *, at_ms: int, suspending: str = ""
    ) -> VersionRow | None:
        """Make a known version the one that decides."""

        def work(connection: apsw.Connection) -> VersionRow | None:
            if not connection.execute(_ONE, (version,)).fetchall():
                return None
            if suspending:
                connection.execute(_SUSPEND, (suspending,))
            connection.execute(_ACTIVATE, (at_ms, version))
            return _row(connection.execute(_ONE, (version,)).fetchall()[0])

        return await self._threads.write(work)

    async def version(self, version: int | None) -> VersionRow | None:
        """Return one version, or None; without a number the one that decides."""
        statement, values = (_THE_ACTIVE, ()) if version is None else (_ONE, (version,))
        rows = await self._threads.read(lambda one: one.execute(statement, values).fetchall())
        return _row(rows[0]) if rows else None

    async def versions(self, version_filter: VersionFilter) -> Sequence[VersionRow]:
        """Return at most `limit` versions that match, newest first, without their texts."""
        name = version_filter.name
        limit = min(
            max(version_filter.limit, 0), limits.LIST_PAGE_MAX + 1
        )  # one more tells whether there are more
        values = (version_filter.before or _ANY_VERSION, name, name, limit)
        rows = await self._threads.read(lambda one: one.execute(_SOME, values).fetchall())
        return [_row(row) for row in rows]

    async def last_good(self) -> int | None:
        """Return the version that was active last but for the active one; suspended ones do not count."""
        return await self._threads.read(lambda one: one.execute(_LAST_GOOD).get)


def _row(values: Sequence[Any]) -> VersionRow:
    named = dict(zip((f.name for f in fields(VersionRow)), values, strict=True))
    named["is_active"] = bool(named["is_active"])
    return VersionRow(**named)
