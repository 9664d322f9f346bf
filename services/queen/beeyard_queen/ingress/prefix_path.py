"""Prompts as paths of hashes: what the core may know of them to send one where its beginning is in a cache.

The text is cut into blocks of equal size, and each block's hash is over that block and the hash before it, so that it
stands for everything up to its end. The key is drawn when the queen starts and never leaves it: a hash says nothing to
whoever sees one, and is worth nothing after a restart. The tenant goes into the first hash: nobody can find out by how
soon an answer begins whether somebody else asked the same; tenants share the caches of engines, never the knowledge
of what is in them.
"""

import hashlib
import secrets
from collections.abc import Iterable
from typing import Final

from beeyard.worker.v1 import engine_service_pb2 as engine_pb
from beeyard_core import limits

_HASH_BYTES: Final = 8
# Neither is found in text that people write; a prompt that holds them is at worst taken for another.
_AFTER_ROLE: Final = "\x1f"
_AFTER_TURN: Final = "\x1e"


class PrefixPaths:
    """Makes paths. One for each queen."""

    def __init__(self, *, key: bytes | None = None) -> None:
        """Draw a key, unless a test brings one."""
        self._key = key if key is not None else secrets.token_bytes(32)

    def path_of(
        self, request: engine_pb.GenerateRequest, *, tenant_id: str, model: str
    ) -> tuple[int, ...]:
        """Return the hashes of the whole blocks of a prompt, from its beginning; a short one has none.

        A conversation that goes on has the path of what it was so far, and more.
        """
        most = limits.PREFIX_BLOCK_BYTES * limits.PREFIX_BLOCKS_PER_PROMPT_MAX
        text = _beginning(request, most)
        if len(text) < limits.PREFIX_BLOCK_BYTES:
            return ()
        digest = self._hash(f"{tenant_id}{_AFTER_TURN}{model}".encode())
        path = []
        for end in range(limits.PREFIX_BLOCK_BYTES, len(text) + 1, limits.PREFIX_BLOCK_BYTES):
            digest = self._hash(digest + text[end - limits.PREFIX_BLOCK_BYTES : end])
            path.append(int.from_bytes(digest, "big"))
        return tuple(path)

    def _hash(self, data: bytes) -> bytes:
        return hashlib.blake2b(data, key=self._key, digest_size=_HASH_BYTES).digest()


def _beginning(request: engine_pb.GenerateRequest, most: int) -> bytes:
    """Return the first bytes of a prompt as one text; of a conversation, turn by turn."""
    if not request.messages:
        # No character has more than four bytes, and none less than one.
        return request.prompt[:most].encode()[:most]
    parts: list[bytes] = []
    size = 0
    for text in _turns(request):
        parts.append(text[: most - size].encode())
        size += len(parts[-1])
        if size >= most:
            break
    return b"".join(parts)[:most]


def _turns(request: engine_pb.GenerateRequest) -> Iterable[str]:
    for turn in request.messages:
        yield turn.role + _AFTER_ROLE
        yield turn.content
        yield _AFTER_TURN
