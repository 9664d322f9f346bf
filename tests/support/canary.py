"""Words that only a client and who answers it should know, and the record of a run in which they were said."""

import json
import secrets
from dataclasses import dataclass, field
from typing import Final

from beeyard_client.job import JobOptions

from tests.support.scripted_upstream import DONE, ScriptedUpstream, event

ASKED: Final = f"asked{secrets.token_hex(8)}"
ANSWERED: Final = f"answered{secrets.token_hex(8)}"
#: What holders of leases say, for those who look at their work and for no log.
SAID: Final = f"said{secrets.token_hex(8)}"
PROMPT: Final = f"Tell nobody of {ASKED}"
#: More than fits in the context of the model.
TOO_LONG: Final = f"{ASKED} " * 400
MODEL: Final[JobOptions] = {"model": "told", "max_tokens": 8}


@dataclass
class Run:
    """One run.

    Attributes:
        upstream: What answers.
        told: What clients were told of what went wrong.
        endings: How jobs ended, or with what they were refused.
        job_id: The first job that ended well.
    """

    upstream: ScriptedUpstream
    told: list[str] = field(default_factory=list)
    endings: set[str] = field(default_factory=set)
    job_id: str = ""

    def answers(self, *body: bytes, status: int = 200, hangs: bool = False) -> None:
        """Set what the server says from here on."""
        self.upstream.status, self.upstream.body, self.upstream.hangs = status, body, hangs

    def answers_well(self) -> None:
        self.answers(event(f" {ANSWERED}"), event("", finish_reason="stop"), DONE)

    def answers_and_hangs(self) -> None:
        self.answers(event(f" {ANSWERED}"), hangs=True)

    def quotes(self) -> None:
        """Let the server refuse, and quote what it was asked."""
        self.answers(json.dumps({"error": f"{PROMPT} {ANSWERED}"}).encode(), status=400)

    def ended(self, ending: str, *words: object) -> None:
        self.endings.add(ending)
        self.told += [str(word) for word in words]


def places_of(content: bytes) -> list[bytes]:
    """Return the first place of each of the words, with what is around it."""
    found = ((content, content.find(word.encode())) for word in (ASKED, ANSWERED, SAID))
    return [text[max(at - 200, 0) : at + 60] for text, at in found if at >= 0]
