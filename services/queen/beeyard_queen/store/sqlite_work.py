"""The heavy work of the SQLite store: every statement about it, and the reading port on the store's thread."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any, Final, Protocol, TypeVar

import apsw
from beeyard_core import limits

from beeyard_queen.store.work import Bodies, WorkFilter, WorkRow

T = TypeVar("T")

_COLUMNS: Final = tuple(f.name for f in fields(WorkRow))
_LISTED: Final = ", ".join(name for name in _COLUMNS if name not in ("payload", "result"))
_SAVE: Final = (
    f"INSERT INTO work ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) "  # noqa: S608 - constants
    "ON CONFLICT (work_id) DO UPDATE SET state = excluded.state, is_ended = excluded.is_ended, "
    "ended_ms = excluded.ended_ms, epoch = excluded.epoch, details = excluded.details, "
    "payload = iif(excluded.is_ended, x'', iif(excluded.payload = x'', payload, excluded.payload)), "
    "result = iif(excluded.result = x'', result, excluded.result)"
)
_UNFINISHED: Final = f"SELECT {_LISTED} FROM work WHERE is_ended = 0 ORDER BY sequence"  # noqa: S608
_LAST_SEQUENCE: Final = (
    "SELECT max(value, (SELECT ifnull(max(sequence), 0) FROM work)) "
    "FROM counters WHERE name = 'work_sequence'"
)
_PICK_FORGOTTEN: Final = (
    "SELECT sequence FROM work WHERE is_ended = 1 AND ended_ms < ? ORDER BY ended_ms LIMIT ?"
)
# The newest may be among the forgotten; its number must never be given out again.
_SAVE_SEQUENCE: Final = (
    "UPDATE counters SET value = max(value, (SELECT ifnull(max(sequence), 0) FROM work)) "
    "WHERE name = 'work_sequence'"
)
_FORGET: Final = "DELETE FROM work WHERE sequence = ?"
_ONE: Final = f"SELECT {_LISTED} FROM work WHERE work_id = ?"  # noqa: S608
_BY_REQUEST: Final = (
    f"SELECT {_LISTED} FROM work WHERE tenant_id = ? AND request_id = ? AND request_id <> ''"  # noqa: S608
)
_BY_EPOCH: Final = f"SELECT {_LISTED} FROM work WHERE epoch = ? AND epoch > 0"  # noqa: S608
_BODIES: Final = "SELECT payload, result FROM work WHERE work_id = ?"
_ANY_SEQUENCE: Final = 2**63 - 1

_values = attrgetter(*_COLUMNS)


def save_work(connection: apsw.Connection, rows: Sequence[WorkRow]) -> None:
    """Insert or replace rows, within the caller's transaction."""
    # A payload that would be erased in the same breath never reaches the disk.
    kept = ((*_values(row)[:-2], b"" if row.is_ended else row.payload, row.result) for row in rows)
    connection.executemany(_SAVE, kept)


def unfinished_work(connection: apsw.Connection) -> tuple[tuple[WorkRow, ...], int]:
    """Return the work that has not ended, by sequence, and the highest sequence ever given out."""
    rows = tuple(map(_row, connection.execute(_UNFINISHED).fetchall()))
    return rows, connection.execute(_LAST_SEQUENCE).get


def forget_work(connection: apsw.Connection, ended_before_ms: int) -> int:
    """Delete some of the work that ended before that wall time, oldest first; return how much."""
    bounds = (ended_before_ms, limits.STORE_FORGET_JOBS_MAX)
    forgotten = connection.execute(_PICK_FORGOTTEN, bounds).fetchall()
    connection.execute(_SAVE_SEQUENCE)
    connection.executemany(_FORGET, forgotten)
    return len(forgotten)


class Reading(Protocol):
    """What the port needs of the store: a look on the thread that reads."""

    def read(self, work: Callable[[apsw.Connection], T]) -> Awaitable[T]:
        """Run `work` on the connection that reads."""
        ...


class SqliteWork:
    """The reading port on the store's file; usable while the store is open."""

    def __init__(self, threads: Reading) -> None:
        """Work on the store's threads."""
        self._threads = threads

    async def work(self, work_id: str) -> WorkRow | None:
        """Return one piece of work, or None."""
        return await self._one(_ONE, (work_id,))

    async def work_by_request(self, tenant_id: str, request_id: str) -> WorkRow | None:
        """Return the work of an idempotency key, or None."""
        return await self._one(_BY_REQUEST, (tenant_id, request_id))

    async def work_by_epoch(self, epoch: int) -> WorkRow | None:
        """Return the work whose current or last lease has this epoch, or None."""
        return await self._one(_BY_EPOCH, (epoch,))

    async def works(self, work_filter: WorkFilter) -> Sequence[WorkRow]:
        """Return at most `limit` pieces of work that match, newest first."""
        states, wanted = work_filter.states, ["sequence < ?"]
        values: list[str | int] = [work_filter.before_sequence or _ANY_SEQUENCE]
        for column, value in (("tenant_id", work_filter.tenant_id), ("kind", work_filter.kind)):
            if value:
                wanted.append(f"{column} = ?")
                values.append(value)
        if states:
            wanted.append(f"state IN ({', '.join('?' * len(states))})")
            values.extend(states)
        # One more than a page tells whether there is another.
        values.append(min(max(work_filter.limit, 0), limits.LIST_PAGE_MAX + 1))
        statement = (
            f"SELECT {_LISTED} FROM work WHERE {' AND '.join(wanted)} "  # noqa: S608 - made of constants
            "ORDER BY sequence DESC LIMIT ?"
        )
        rows = await self._threads.read(lambda one: one.execute(statement, values).fetchall())
        return [_row(row) for row in rows]

    async def bodies(self, work_id: str) -> Bodies:
        """Return payload and result of one piece of work; empty if there is no such work."""
        rows = await self._threads.read(lambda one: one.execute(_BODIES, (work_id,)).fetchall())
        found: list[Any] = rows
        return Bodies(*found[0]) if found else Bodies(b"", b"")

    async def _one(self, statement: str, values: tuple[str | int, ...]) -> WorkRow | None:
        rows = await self._threads.read(lambda one: one.execute(statement, values).fetchall())
        return _row(rows[0]) if rows else None


def _row(values: Sequence[Any]) -> WorkRow:
    named = dict(zip(_COLUMNS, values, strict=False))
    named["is_ended"] = bool(named["is_ended"])
    return WorkRow(**named)
