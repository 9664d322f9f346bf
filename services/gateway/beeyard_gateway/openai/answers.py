"""What OpenAI's clients read: chunks of a stream as ready-made bytes, and whole answers.

All but the text of a chunk is the same over a whole answer, so it is made once; a chunk costs the quoting of its text
and one join. `id:` is the index of the chunk's last token, by which `Last-Event-ID` goes on.
"""

import json
from collections.abc import Mapping
from json.encoder import encode_basestring
from typing import Any, Final, Literal

from beeyard.worker.v1 import generation_pb2

Kind = Literal["chat", "text"]
DONE: Final = b"data: [DONE]\n\n"
_NO_END: Final = b',"logprobs":null,"finish_reason":null}]'
_PREFIXES: Final[Mapping[Kind, str]] = {"chat": "chatcmpl-", "text": "cmpl-"}
_OBJECTS: Final[Mapping[Kind, str]] = {"chat": "chat.completion", "text": "text_completion"}
_CHUNK_OBJECTS: Final[Mapping[Kind, str]] = {
    "chat": "chat.completion.chunk",
    "text": "text_completion",
}
_REASONS: Final[Mapping[int, str]] = {
    generation_pb2.FINISH_REASON_STOP: "stop",
    generation_pb2.FINISH_REASON_LENGTH: "length",
}


def completion_id(kind: Kind, job_id: str) -> str:
    """Return the name of an answer; the job's own name follows the prefix."""
    return _PREFIXES[kind] + job_id


def finish_word(reason: int) -> str:
    """Return OpenAI's word for how a generation ended."""
    return _REASONS.get(reason, "stop")


def usage_of(usage: generation_pb2.Usage) -> dict[str, Any]:
    """Return OpenAI's usage."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_prompt_tokens},
    }


class Chunks:
    """The chunks of one stream."""

    def __init__(
        self,
        kind: Kind,
        *,
        job_id: str,
        model: str,
        created_s: int,
        wants_usage: bool,
        is_resumed: bool,
    ) -> None:
        """Make what all chunks share.

        Args:
            kind: Whose clients read it.
            job_id: The job.
            model: The model that answers.
            created_s: When it began, in seconds since 1970.
            wants_usage: Whether the usage comes at the end.
            is_resumed: Whether the client has the beginning already.
        """
        head = {
            "id": completion_id(kind, job_id),
            "object": _CHUNK_OBJECTS[kind],
            "created": created_s,
            "model": model,
        }
        plain = json.dumps(head, ensure_ascii=False, separators=(",", ":")).encode()
        self._head = b"data: " + plain[:-1] + b',"choices":['
        self._tail = b',"usage":null}\n\n' if wants_usage else b"}\n\n"
        self._wants_usage = wants_usage
        opening = b'{"index":0,"delta":{"content":' if kind == "chat" else b'{"index":0,"text":'
        self._close = (b"}" if kind == "chat" else b"") + _NO_END + self._tail
        self._open = self._head + opening
        # The first chunk says who speaks.
        role = b'{"index":0,"delta":{"role":"assistant","content":'
        self._next_open = self._head + role if kind == "chat" and not is_resumed else self._open
        self._end = b'{"index":0,"delta":{}' if kind == "chat" else b'{"index":0,"text":""'

    def tokens(self, last_index: int, text: str) -> bytes:
        """Return the chunk of some tokens."""
        begin, self._next_open = self._next_open, self._open
        return b"id: %d\n%b%b%b" % (
            last_index,
            begin,
            encode_basestring(text).encode(),
            self._close,
        )

    def finish(self, reason: int, usage: generation_pb2.Usage) -> bytes:
        """Return the last chunks and the end of the stream."""
        ending = b',"logprobs":null,"finish_reason":"%b"}]' % finish_word(reason).encode()
        last = self._head + self._end + ending + self._tail
        if self._wants_usage:
            told = json.dumps(usage_of(usage), separators=(",", ":")).encode()
            last += self._head + b'],"usage":' + told + b"}\n\n"
        return last + DONE


def whole(
    kind: Kind,
    *,
    job_id: str,
    model: str,
    created_s: int,
    text: str,
    reason: int,
    usage: generation_pb2.Usage,
) -> dict[str, Any]:
    """Return the whole answer."""
    choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": finish_word(reason)}
    if kind == "chat":
        choice["message"] = {"role": "assistant", "content": text, "refusal": None}
    else:
        choice["text"] = text
    return {
        "id": completion_id(kind, job_id),
        "object": _OBJECTS[kind],
        "created": created_s,
        "model": model,
        "choices": [choice],
        "usage": usage_of(usage),
    }
