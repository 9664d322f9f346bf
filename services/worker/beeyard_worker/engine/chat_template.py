"""The plain way to write a conversation, for base models that bring no chat template of their own."""

from collections.abc import Sequence
from typing import Final

_NAMES: Final = {"system": "System", "user": "User", "assistant": "Assistant"}

# A base model goes on to write the other side's lines, too; these strings end its own turn.
PLAIN_STOPS: Final = ("\nUser:", "\nSystem:")


def render_plain(messages: Sequence[tuple[str, str]]) -> str:
    """Return the conversation as text that ends where the assistant's answer begins.

    An assistant's message in the last place is a beginning of the answer, and is left open.

    Args:
        messages: (role, content) turns; roles are `system`, `user` and `assistant`.
    """
    turns = [f"{_NAMES.get(role, role)}: {content}".rstrip() for role, content in messages]
    if not messages or messages[-1][0] != "assistant":
        turns.append("Assistant:")
    return "\n".join(turns)
