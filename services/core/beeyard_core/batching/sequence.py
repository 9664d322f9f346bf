"""One answer as the batch planner sees it: so many tokens known, so many of them computed.

There is no phase to keep: a sequence whose last known token alone is not computed decodes, one with more than that is
in its prompt. A sequence that was preempted has nothing computed any more and everything known, so it goes through its
prompt and its own answer once more and then decodes on, token for token as before.
"""

from dataclasses import dataclass
from typing import NewType

SequenceId = NewType("SequenceId", str)


@dataclass(slots=True, kw_only=True)
class Sequence:
    """One answer on its way.

    Attributes:
        rank: Of its class, 0 is the most urgent.
        prompt_tokens: What is known at the start: the prompt, and what earlier attempts delivered.
        answer_tokens_max: Most tokens that are still to be made; 1 or more.
        arrival: Its number in the order in which sequences joined; the planner sets it.
        made: Tokens made so far.
        computed: Tokens whose keys and values lie in memory now.
        passed_over: Steps, all in all, that computed nothing of it although it could have gone on.
        is_held_back: Whoever reads it is behind, so nothing more is made for now; its memory stays.
    """

    sequence_id: SequenceId
    rank: int
    prompt_tokens: int
    answer_tokens_max: int
    arrival: int = 0
    made: int = 0
    computed: int = 0
    passed_over: int = 0
    is_held_back: bool = False

    @property
    def known(self) -> int:
        """Tokens that are known: the prompt and what was made of the answer."""
        return self.prompt_tokens + self.made

    @property
    def pending(self) -> int:
        """Known tokens that are still to be computed; never 0, since the last one made always is."""
        return self.known - self.computed

    @property
    def decodes(self) -> bool:
        """Whether its next step computes one token and makes the next."""
        return self.pending == 1 and self.computed > 0

    @property
    def is_complete(self) -> bool:
        """Whether all tokens that it may have are made."""
        return self.made >= self.answer_tokens_max

    @property
    def tokens_max(self) -> int:
        """Most tokens that it can ever have in memory."""
        return self.prompt_tokens + self.answer_tokens_max
