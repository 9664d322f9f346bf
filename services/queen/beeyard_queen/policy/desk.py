"""The policy desk: where policies are handed in, kept as versions, and made the one that decides.

Deploying is: validate, compile, try on the world as it is now, keep, swap in. What is kept and what runs change under
one lock and in that order: a commit first, then the swap, so that a queen that dies in between starts with what it
promised. A swap that fails is taken back in the store, with the reason.

A caller that goes away ends its own waiting, not a change that has begun.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from beeyard_core import limits
from beeyard_runtime.clock import Clock
from beeyard_runtime.faults import StartFailed
from beeyard_runtime.log import get_log

from beeyard_queen.policy.changes import Changes
from beeyard_queen.policy.context_file import Scene
from beeyard_queen.policy.declining import (
    immutable,
    invalid,
    none_before,
    not_found,
    not_swapped,
    stale,
)
from beeyard_queen.policy.faults import PolicyInvalid
from beeyard_queen.policy.host_process import HostGone
from beeyard_queen.policy.in_process import platform_source
from beeyard_queen.policy.program import Program, make_program
from beeyard_queen.policy.reply import Status
from beeyard_queen.policy.running import Runtime, label_of
from beeyard_queen.policy.sandbox import Sandbox
from beeyard_queen.policy.try_command import read_scene
from beeyard_queen.policy.turns import Turns
from beeyard_queen.policy.validation import Finding, scenes, validate
from beeyard_queen.store.port import StoreUnavailable
from beeyard_queen.store.versions import (
    PLATFORM_VERSION,
    Draft,
    Language,
    PolicyVersions,
    VersionFilter,
    VersionRow,
    digest_of,
)

Mode = Literal["lab", "platform"]

_NAME_WITHOUT_ONE: Final = "policy"
_log = get_log("policy")


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A policy that is handed in.

    Attributes:
        language: What it is written in.
        text: Its source.
        name: Its name; empty: the one that the source gives.
        author: Who hands it in.
        note: What that party says about it.
        expected_active: Deploy only while this version is active; None: in any case.
    """

    language: Language
    text: str
    name: str = ""
    author: str = ""
    note: str = ""
    expected_active: int | None = None


class Desk:
    """One queen's policies. Use it from one event loop."""

    def __init__(
        self,
        *,
        mode: Mode,
        runtime: Runtime,
        versions: PolicyVersions,
        sandbox: Sandbox,
        clock: Clock,
    ) -> None:
        """Prepare; nothing is loaded before `open`.

        Args:
            mode: `lab` takes any policy; `platform` keeps to the platform policy.
            runtime: What decides.
            versions: Where versions are kept; the store is open.
            sandbox: Where hosts for trials come from.
            clock: For the times of versions and for retries.
        """
        self.mode: Final = mode
        self._runtime = runtime
        self._versions = versions
        self._sandbox = sandbox
        self._clock = clock
        self.turns: Final = Turns()
        self.changes: Final = Changes()
        runtime.on_suspended = self._suspended

    async def open(self) -> None:
        """Let the version that was active last decide again; the platform policy, if it cannot.

        Raises:
            StoreUnavailable: The store cannot be read.
        """
        row = await self._active()
        if row.version == PLATFORM_VERSION:
            return
        if self.mode == "platform":
            await self._versions.activate(PLATFORM_VERSION, at_ms=self._now_ms())
            _log.warning("policy_set_aside", policy=label_of(row), mode=self.mode)
            return
        fault = await self._load(row)
        if not fault:
            _log.info("policy_restored", policy=label_of(row))
            return
        reason = f"it did not load when the queen started: {fault}"
        await self._versions.activate(
            PLATFORM_VERSION, at_ms=self._now_ms(), suspending=_short(reason)
        )
        _log.error("policy_suspended", policy=label_of(row), reason=reason, restored="platform")

    async def close(self) -> None:
        """Let changes that have begun end; give up on those that cannot be made now."""
        await self.changes.close()

    # --- looking ---

    async def validate(self, language: Language, text: str) -> Finding:
        """Try a policy as a deployment would, and change nothing.

        Raises:
            RpcRefusal: Too many are being tried.
            HostGone, StartFailed: The sandbox does not work.
        """
        async with self.turns.turn():
            zygote = await self._sandbox.zygote()
            worlds = _worlds(await self._runtime.scene())
            return await validate(zygote, language, text.encode(), worlds)

    async def version(self, version: int | None) -> VersionRow:
        """Return one version with its source; without a number the active one.

        Raises:
            RpcRefusal: POLICY_NOT_FOUND.
        """
        row = await self._versions.version(version)
        if row is None:
            raise not_found(version)
        return _with_source(row)

    async def versions(self, version_filter: VersionFilter) -> Sequence[VersionRow]:
        """Return versions that were deployed, newest first, without their sources."""
        return await self._versions.versions(version_filter)

    # --- changing ---

    async def deploy(self, wanted: Deployment) -> VersionRow:
        """Make a policy the one that decides; return its version when it does.

        Raises:
            RpcRefusal: POLICY_IMMUTABLE, POLICY_INVALID, STALE_POLICY_VERSION, or too many are being tried.
            StoreUnavailable: Nothing changed.
            HostGone, StartFailed: The sandbox does not work; nothing changed.
        """
        self._refuse_if_immutable()
        if known := self._same(await self._active(), wanted):
            return known
        finding = await self.validate(wanted.language, wanted.text)
        if finding.error is not None:
            raise invalid(finding.error)
        assert finding.program is not None
        return await self.changes.make(self._deploy(wanted, finding.program))

    async def rollback(self, version: int | None) -> VersionRow:
        """Make an earlier version active again; without a number the one that was active before.

        Raises:
            RpcRefusal: POLICY_IMMUTABLE, POLICY_NOT_FOUND, or POLICY_INVALID if it does not load any more.
            StoreUnavailable: Nothing changed.
        """
        self._refuse_if_immutable()
        return await self.changes.make(self._rollback(version))

    async def _deploy(self, wanted: Deployment, program: Program) -> VersionRow:
        before = await self._active()
        if known := self._same(before, wanted):
            return known
        draft = Draft(
            name=wanted.name or program.name or _NAME_WITHOUT_ONE,
            language=wanted.language,
            text=program.text.decode(),
            author=wanted.author,
            note=wanted.note,
        )
        row = await self._versions.deploy(draft, at_ms=self._now_ms())
        return await self._swap(before, row)

    async def _rollback(self, version: int | None) -> VersionRow:
        before = await self._active()
        number = version if version is not None else await self._versions.last_good()
        if number is None:
            raise none_before()
        if number == before.version:
            return _with_source(before)
        row = await self._versions.activate(number, at_ms=self._now_ms())
        if row is None:
            raise not_found(number)
        return await self._swap(before, row)

    async def _swap(self, before: VersionRow, row: VersionRow) -> VersionRow:
        """Let a version decide that was committed as active, or take the commit back."""
        fault = await self._load(row)
        if fault:
            reason = f"it could not be swapped in: {fault}"
            _log.error("policy_not_swapped", policy=label_of(row), reason=fault)
            await self._take_back(before, row, reason)
            raise not_swapped(row, before, fault)
        _log.info("policy_changed", policy=label_of(row), before=label_of(before))
        return _with_source(row)

    async def _take_back(self, before: VersionRow, row: VersionRow, reason: str) -> None:
        """Mark a version as suspended of which only the store believes that it decides."""
        try:
            await self._versions.activate(
                before.version, at_ms=self._now_ms(), suspending=_short(reason)
            )
        except StoreUnavailable:
            self.changes.pursue(self._restore(label_of(row), reason))

    async def _load(self, row: VersionRow) -> str:
        """Let a version decide; return why it cannot, or nothing."""
        if row.version == PLATFORM_VERSION:
            self._runtime.use_platform()
            return ""
        try:
            program = await asyncio.to_thread(make_program, row.language, row.text.encode())
            reply = await self._runtime.activate(program.lua, label_of(row))
        except (PolicyInvalid, HostGone, StartFailed) as fault:
            return str(fault)
        if reply.status is Status.OK:
            return ""
        line = program.line_of(reply.line)
        return f"line {line}: {reply.text}" if line is not None else reply.text

    # --- a policy that failed too often ---

    def _suspended(self, label: str, reason: str) -> None:
        self.changes.pursue(self._restore(label, reason))

    async def _restore(self, label: str, reason: str) -> None:
        """Mark a version as suspended and let the last good one decide, however long the store is away."""
        while True:
            try:
                return await self.changes.make(self._restore_last_good(label, reason))
            except StoreUnavailable as fault:
                _log.error("policy_not_marked_as_suspended", policy=label, fault=str(fault))
            await self._clock.sleep_ms(limits.RECONNECT_MAX_MS)

    async def _restore_last_good(self, label: str, reason: str) -> None:
        row = await self._active()
        if label_of(row) != label:
            return  # somebody was faster
        fault = reason
        while fault:
            number = await self._versions.last_good() or PLATFORM_VERSION
            good = await self._versions.activate(
                number, at_ms=self._now_ms(), suspending=_short(fault)
            )
            assert good is not None, "what was active is there"
            fault = await self._load(good)
            if fault:
                _log.error("policy_suspended", policy=label_of(good), reason=fault)
                fault = f"it did not load again: {fault}"
            else:
                _log.error("policy_replaced", suspended=label, reason=reason, by=label_of(good))

    # --- within ---

    async def _active(self) -> VersionRow:
        row = await self._versions.version(None)
        assert row is not None, "one version is always active"
        return row

    def _same(self, active: VersionRow, wanted: Deployment) -> VersionRow | None:
        """Return the active version if it is what is wanted.

        Raises:
            RpcRefusal: STALE_POLICY_VERSION, if it is not, nor what the caller expects.
        """
        text = wanted.text.removeprefix("\ufeff")
        if active.digest == digest_of(wanted.language, text):
            return active
        expected = wanted.expected_active
        if expected is not None and expected != active.version:
            raise stale(active.version, expected)
        return None

    def _refuse_if_immutable(self) -> None:
        if self.mode == "platform":
            raise immutable()

    def _now_ms(self) -> int:
        return self._clock.now().wall_ms


def _worlds(present: Scene) -> Iterator[tuple[str, Scene]]:
    """Yield the worlds in which a policy is tried before it decides here."""
    yield "the queen's present world", present
    yield from scenes(read_scene(None), "the sample world")


def _short(reason: str) -> str:
    return reason[: limits.POLICY_ERROR_BYTES_MAX]


def _with_source(row: VersionRow) -> VersionRow:
    """Return a version with its text; the platform policy's is the program's own."""
    if row.version != PLATFORM_VERSION:
        return row
    text = platform_source()
    return replace(row, text=text, digest=digest_of("lua", text))
