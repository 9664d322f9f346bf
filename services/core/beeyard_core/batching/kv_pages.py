"""KV memory in pages: given to a sequence as it needs them, taken back all at once.

A page belongs to one sequence at a time, so at most one page a sequence is partly empty and nothing is ever scattered
beyond that. Invariant: `free + sum(held) == total` and nobody's hold is negative.
"""

from collections.abc import Mapping

from beeyard_core.batching.sequence import SequenceId


class KvPages:
    """Who holds how many pages."""

    __slots__ = ("_held", "free", "page_tokens", "total")

    def __init__(self, *, tokens: int, page_tokens: int) -> None:
        """Start with everything free; what does not fill a page is left unused."""
        self.page_tokens = page_tokens
        self.total = tokens // page_tokens
        self.free = self.total
        self._held: dict[SequenceId, int] = {}
        assert self.total > 0, "memory for less than one page holds no sequence"

    @property
    def held(self) -> Mapping[SequenceId, int]:
        """Pages of each sequence that has any."""
        return self._held

    @property
    def tokens_total(self) -> int:
        """Tokens that all pages hold."""
        return self.total * self.page_tokens

    @property
    def tokens_free(self) -> int:
        """Tokens that the free pages hold."""
        return self.free * self.page_tokens

    def pages_for(self, tokens: int) -> int:
        """Return how many pages hold so many tokens."""
        return -(-tokens // self.page_tokens)

    def give(self, sequence_id: SequenceId, pages: int) -> None:
        """Let a sequence hold so many pages in all; what it lacks must be free."""
        more = pages - self._held.get(sequence_id, 0)
        assert 0 <= more <= self.free, "whoever plans has asked whether it fits"
        self.free -= more
        self._held[sequence_id] = pages

    def reclaim(self, sequence_id: SequenceId) -> None:
        """Take back everything that a sequence holds, if it holds anything."""
        self.free += self._held.pop(sequence_id, 0)
