"""How much KV memory an answer may need, and who was promised how much of it.

A worker never queues and never overcommits: a lease is accepted only when the KV tokens that it may
need in the worst case are free, so an answer that was started never dies for want of KV memory.
Pure: knows no engine, clock or stream.
"""

from beeyard_core.refusal import Refusal, Refused


def plan_kv(
    *,
    prompt_tokens: int,
    max_tokens: int,
    context_tokens: int,
    kv_tokens_total: int,
    page_tokens: int = 1,
) -> int | Refused:
    """Return the KV tokens that one answer may need at most.

    Args:
        prompt_tokens: Tokens of the prompt after the chat template.
        max_tokens: Most tokens of the whole answer, tokens of earlier attempts included.
        context_tokens: Longest prompt plus answer that the model takes, in tokens.
        kv_tokens_total: The worker's whole KV memory, in tokens.
        page_tokens: Tokens of one page, if the engine gives memory in pages.

    Returns:
        Tokens to reserve: prompt plus answer, but never more than the context, at which the engine
        ends the answer; in whole pages. Or a refusal, if the prompt leaves no room for a single token, or if even
        the empty worker could not hold the answer.
    """
    if prompt_tokens + 1 > context_tokens:
        return _incompatible(needed=prompt_tokens + 1, available=context_tokens)
    needed = min(prompt_tokens + max_tokens, context_tokens)
    needed = -(-needed // page_tokens) * page_tokens
    if needed > kv_tokens_total:
        return _incompatible(needed=needed, available=kv_tokens_total)
    return needed


def _incompatible(*, needed: int, available: int) -> Refused:
    return Refused(
        reason=Refusal.NO_CAPACITY_INCOMPATIBLE_CONTEXT,
        message=f"the request needs {needed} tokens of context, this worker has {available}",
        metadata={"needed_tokens": str(needed), "available_tokens": str(available)},
    )


class KvBudget:
    """The KV tokens that all slots of a worker share. Invariant: `0 <= free <= total`."""

    __slots__ = ("free", "total")

    def __init__(self, total: int) -> None:
        """Start with all of `total` tokens free."""
        self.total = total
        self.free = total

    def fits(self, tokens: int) -> bool:
        """Whether `tokens` are free now."""
        return tokens <= self.free

    def reserve(self, tokens: int) -> None:
        """Promise `tokens`, which must fit."""
        assert 0 <= tokens <= self.free, "whoever reserves has asked whether it fits"
        self.free -= tokens

    def release(self, tokens: int) -> None:
        """Take back a promise of `tokens`."""
        assert 0 <= tokens <= self.total - self.free, "only what was reserved is released"
        self.free += tokens
