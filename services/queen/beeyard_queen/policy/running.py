"""What the policy desk needs of whoever runs policies, and how both call a version."""

from collections.abc import Callable
from typing import Protocol

from beeyard_queen.policy.context_file import Scene
from beeyard_queen.policy.reply import Reply
from beeyard_queen.store.versions import VersionRow


class Runtime(Protocol):
    """What decides, as the desk needs it.

    Attributes:
        on_suspended: Called with label and reason when the active policy failed too often; by then the platform policy
            decides.
    """

    on_suspended: Callable[[str, str], None] | None

    async def scene(self) -> Scene:
        """Return the world as it is now."""
        ...

    async def activate(self, source: bytes, label: str) -> Reply:
        """Load Lua in fresh hosts and let it decide from the next decision on; not OK: nothing changed."""
        ...

    def use_platform(self) -> None:
        """Let the platform policy decide from the next decision on."""
        ...


def label_of(row: VersionRow) -> str:
    """Return what decisions, logs and metrics call a version: `name@version`."""
    return f"{row.name}@{row.version}"
