"""The policy versions of the store in memory: what tests of the desk may trust, because it passes the suite."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from beeyard_core import limits

from beeyard_queen.store.versions import (
    PLATFORM_NAME,
    PLATFORM_VERSION,
    Draft,
    VersionFilter,
    VersionRow,
)

_PLATFORM = VersionRow(
    version=PLATFORM_VERSION,
    name=PLATFORM_NAME,
    language="lua",
    text="",
    digest="",
    author="",
    note="",
    created_ms=0,
    activated_ms=0,
    activation=1,
    is_active=True,
    suspension="",
)


class MemoryVersions:
    """The desk's port on a dictionary."""

    def __init__(self, check_write: Callable[[], None], check_read: Callable[[], None]) -> None:
        """Start with the platform policy alone; the checks raise while the store cannot be used."""
        self._check_write, self._check_read = check_write, check_read
        self._rows = {PLATFORM_VERSION: _PLATFORM}

    async def deploy(self, draft: Draft, *, at_ms: int) -> VersionRow:
        """Keep a policy and make it the one that decides."""
        await asyncio.sleep(0)
        self._check_write()
        digest = draft.digest
        known = [row.version for row in self._rows.values() if row.digest == digest]
        number = known[0] if known else max(self._rows) + 1
        if not known:
            self._rows[number] = replace(
                _PLATFORM,
                version=number,
                name=draft.name,
                language=draft.language,
                text=draft.text,
                digest=digest,
                author=draft.author,
                note=draft.note,
                created_ms=at_ms,
            )
        self._activate(number, at_ms)
        self._forget()
        return self._rows[number]

    async def activate(
        self, version: int, *, at_ms: int, suspending: str = ""
    ) -> VersionRow | None:
        """Make a known version the one that decides."""
        await asyncio.sleep(0)
        self._check_write()
        if version not in self._rows:
            return None
        if suspending:
            active = self._active()
            self._rows[active.version] = replace(active, suspension=suspending)
        self._activate(version, at_ms)
        return self._rows[version]

    async def version(self, version: int | None) -> VersionRow | None:
        """Return one version, or None; without a number the one that decides."""
        self._check_read()
        return self._active() if version is None else self._rows.get(version)

    async def versions(self, version_filter: VersionFilter) -> Sequence[VersionRow]:
        """Return at most `limit` versions that match, newest first, without their texts."""
        self._check_read()
        found = [
            replace(row, text="")
            for number, row in sorted(self._rows.items(), reverse=True)
            if number > PLATFORM_VERSION
            and (not version_filter.before or number < version_filter.before)
            and version_filter.name in ("", row.name)
        ]
        return found[: min(max(version_filter.limit, 0), limits.LIST_PAGE_MAX + 1)]

    async def last_good(self) -> int | None:
        """Return the version that was active last but for the active one; suspended ones do not count."""
        self._check_read()
        good = [
            row
            for row in self._rows.values()
            if row.activation > 0 and not row.suspension and not row.is_active
        ]
        return max(good, key=lambda row: row.activation).version if good else None

    def _active(self) -> VersionRow:
        return next(row for row in self._rows.values() if row.is_active)

    def _activate(self, number: int, at_ms: int) -> None:
        last = self._active()
        self._rows[last.version] = replace(last, is_active=False)
        self._rows[number] = replace(
            self._rows[number],
            activation=last.activation + 1,
            activated_ms=at_ms,
            is_active=True,
            suspension="",
        )

    def _forget(self) -> None:
        newest = max(self._rows)
        excess = len(self._rows) - 1 - limits.POLICY_VERSIONS_KEPT_MAX
        for row in sorted(self._rows.values(), key=lambda row: row.activation):
            if excess > 0 and PLATFORM_VERSION < row.version < newest:
                del self._rows[row.version]
                excess -= 1
