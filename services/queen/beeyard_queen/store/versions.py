"""What the policy desk needs remembered: every version that was deployed, and which one decides.

A version is content-addressed: the same language and text are one version, however often and by whomever they are
deployed. Versions are numbered from 1 over all policies. Number 0 is the platform policy: it is always there, its text
is the program's own and not kept here.

Each activation gets a number of its own, and the version with the highest decides. So there is no pointer that could
contradict the versions, and the one that decided before is known, too.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

PLATFORM_VERSION: Final = 0
PLATFORM_NAME: Final = "platform"

Language = Literal["lua", "yaml"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A policy about to become a version.

    Attributes:
        name: What its author calls it.
        language: What it is written in.
        text: Its source.
        author: Who deploys it, as that party says.
        note: What the author says about it.
    """

    name: str
    language: Language
    text: str
    author: str
    note: str

    @property
    def digest(self) -> str:
        """SHA-256 of language and text, in hexadecimal."""
        return digest_of(self.language, self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRow:
    """One version as it is remembered. Wall times in milliseconds since the epoch; 0 where not yet.

    Attributes:
        text: Its source; empty in listings, and for the platform policy.
        activation: Number of its last activation, over all versions of this store.
        is_active: Whether it decides.
        suspension: Why it was suspended; empty if it was not, or was made active again since.
    """

    version: int
    name: str
    language: Language
    text: str
    digest: str
    author: str
    note: str
    created_ms: int
    activated_ms: int
    activation: int
    is_active: bool
    suspension: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionFilter:
    """Which versions to list: deployed ones, newest first, strictly below `before` unless 0, of a name unless empty."""

    name: str = ""
    before: int = 0
    limit: int = 50


class PolicyVersions(Protocol):
    """The desk's port. One caller at a time writes; reads may run beside that."""

    async def deploy(self, draft: Draft, *, at_ms: int) -> VersionRow:
        """Keep a policy and make it the one that decides, in one commit; return its version.

        A content that is known becomes active again under its old number, name, author and note. When more versions
        are kept than there may be, the one that has been inactive for longest is forgotten.

        Raises:
            StoreUnavailable: Nothing was kept.
        """
        ...

    async def activate(
        self, version: int, *, at_ms: int, suspending: str = ""
    ) -> VersionRow | None:
        """Make a known version the one that decides, in one commit; None, and nothing changed, if there is none.

        Args:
            version: Its number; 0 is the platform policy.
            at_ms: Now, on the wall's clock.
            suspending: If not empty, the version that was active is marked as suspended for this reason.

        Raises:
            StoreUnavailable: Nothing was kept.
        """
        ...

    async def version(self, version: int | None) -> VersionRow | None:
        """Return one version, or None; without a number the one that decides."""
        ...

    async def versions(self, version_filter: VersionFilter) -> Sequence[VersionRow]:
        """Return at most `limit` versions that match, newest first, without their texts."""
        ...

    async def last_good(self) -> int | None:
        """Return the version that was active last but for the active one; suspended ones do not count.

        None only while the platform policy decides and no other ever did.
        """
        ...


def digest_of(language: Language, text: str) -> str:
    """Return the SHA-256 of language and text, in hexadecimal."""
    return hashlib.sha256(f"{language}\n{text}".encode()).hexdigest()
