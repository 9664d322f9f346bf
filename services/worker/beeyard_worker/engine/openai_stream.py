"""Reads the stream of an OpenAI-compatible server: bytes to events, events to tokens.

Servers differ in what they leave out, so little is relied on: text comes in `choices[0]`, the end has a
`finish_reason`, counts come in `usage` if at all. One piece of text counts as one token, since the protocol tells no
more; when the answer was cut off at its limit, the server's own count fills up those that had no piece of their own.
"""

import codecs
import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from beeyard_core.limits import UPSTREAM_LINE_BYTES_MAX
from beeyard_core.refusal import Refusal

from beeyard_worker.engine.port import EngineFault, Token

Event = Mapping[str, Any]
_DATA: Final = "data:"
_DONE: Final = "[DONE]"
_CONTEXT_WORDS: Final = ("context length", "context size", "context window", "context_length")


class EventLines:
    """Cuts a byte stream into events; a line is bounded, whatever the server sends."""

    def __init__(self) -> None:
        """Begin at the start of a stream."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self.done = False

    def feed(self, received: bytes) -> Iterator[Event]:
        """Yield the events that are complete now.

        Raises:
            EngineFault: PARSE_ERROR for what is no event.
        """
        *lines, self._rest = (self._rest + self._decoder.decode(received)).split("\n")
        if len(self._rest) > UPSTREAM_LINE_BYTES_MAX:
            raise EngineFault(Refusal.PARSE_ERROR, "the upstream server sent a line without end")
        for line in lines:
            if not line.startswith(
                _DATA
            ):  # blank lines between events, comments that keep the line open
                continue
            text = line[len(_DATA) :].strip()
            if text == _DONE:
                self.done = True
                return
            yield _parsed(text)


@dataclasses.dataclass(slots=True)
class UpstreamAnswer:
    """What is known of one answer so far.

    Attributes:
        pieces: Tokens counted so far, of this generation.
        reason: Why it ended; None while it has not.
        prompt_tokens: As the server counted, a continued part included; None if it did not tell.
        cached_tokens: As the server counted.
    """

    pieces: int = 0
    reason: Literal["stop", "length"] | None = None
    prompt_tokens: int | None = None
    cached_tokens: int = 0
    _counted: int = 0

    def take(self, event: Event) -> list[Token]:
        """Return the tokens of one event.

        Raises:
            EngineFault: The event is an error, or no answer at all.
        """
        if "error" in event:
            raise upstream_fault(_code(event["error"]), event)
        try:
            made = self._choice(event["choices"][0]) if event["choices"] else []
            self._count(event)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise EngineFault(
                Refusal.PARSE_ERROR, "the upstream server sent an event that is no completion"
            ) from error
        return made

    def missing(self) -> list[Token]:
        """Return tokens that were generated and had no text of their own, once the stream has ended."""
        # Only at the limit: an answer that ended by itself counts its end token, too, which is not part of it.
        count = self._counted - self.pieces if self.reason == "length" else 0
        self.pieces += max(count, 0)
        return [Token(None, "")] * max(count, 0)

    def _count(self, event: Event) -> None:
        if timings := event.get("timings"):  # llama.cpp's, in each event
            self.cached_tokens = int(timings["cache_n"])
            self.prompt_tokens = int(timings["prompt_n"]) + self.cached_tokens
        if usage := event.get("usage"):
            self._counted = int(usage["completion_tokens"])
            self.prompt_tokens = int(usage["prompt_tokens"])
            details = usage.get("prompt_tokens_details") or {}
            self.cached_tokens = int(details.get("cached_tokens") or 0)

    def _choice(self, choice: Event) -> list[Token]:
        text = choice["text"] if "text" in choice else choice["delta"].get("content")
        if reason := choice.get("finish_reason"):
            self.reason = "length" if reason == "length" else "stop"
        if not text:
            return []
        self.pieces += 1
        return [Token(None, _whole(str(text)))]


def upstream_fault(status: int, body: object) -> EngineFault:
    """Translate an upstream's error. Its own words may quote the prompt, so they are only looked at."""
    if status >= 500:
        return EngineFault(
            Refusal.WORKER_COMMUNICATION_FAILED, f"the upstream server answered {status}"
        )
    if status in {401, 403}:
        return EngineFault(Refusal.WORKER_ERROR, "the upstream server does not accept our key")
    if status in {408, 425, 429}:
        return EngineFault(
            Refusal.WORKER_COMMUNICATION_FAILED, f"the upstream server is busy ({status})"
        )
    if any(word in json.dumps(body).lower() for word in _CONTEXT_WORDS):
        return EngineFault(
            Refusal.NO_CAPACITY_INCOMPATIBLE_CONTEXT,
            "prompt and answer do not fit in the upstream model's context",
        )
    return EngineFault(
        Refusal.INVALID_REQUEST, f"the upstream server refused the request ({status})"
    )


def _parsed(text: str) -> Event:
    try:
        event = json.loads(text)
    except ValueError as error:
        raise EngineFault(
            Refusal.PARSE_ERROR, "the upstream server sent an event that is not JSON"
        ) from error
    if not isinstance(event, dict):
        raise EngineFault(Refusal.PARSE_ERROR, "the upstream server sent an event without fields")
    return event


def _code(error: object) -> int:
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) else 500


def _whole(text: str) -> str:
    """Replace halves of surrogate pairs, which JSON can carry and UTF-8 cannot."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
