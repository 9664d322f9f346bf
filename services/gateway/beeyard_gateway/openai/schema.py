"""What OpenAI's clients send. Parsed and checked in one pass; what cannot be done is refused and never left out.

Ranges are those of the queen, so that this schema and `/openapi.json` say what holds; whatever both could check, the
queen checks again.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, TypeVar

from beeyard_core import limits
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from beeyard_gateway.faults import Fault, invalid

RequestT = TypeVar("RequestT", bound="CompletionRequest")

#: Parameters that change the answer and that no engine here has, with the values that ask for nothing.
_NEUTRAL: Final[Mapping[str, tuple[object, ...]]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False, 0),
    "modalities": (["text"],),
    "moderation": (),
    "prediction": (),
    "presence_penalty": (0,),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
    "web_search_options": (),
}
#: Parameters that change nothing in the answer.
_IGNORED: Final = frozenset(
    {
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
_TEXT_PARTS: Final = ("text", "input_text")


class _Schema(BaseModel):
    model_config = ConfigDict(strict=True, hide_input_in_errors=True, extra="allow")


class ContentPart(_Schema):
    """A part of a message. Only text is understood."""

    type: str
    text: str | None = None


class ChatMessage(_Schema):
    """One turn of a conversation."""

    role: str
    content: str | list[ContentPart] | None = None


class StreamOptions(_Schema):
    """What a stream tells besides."""

    include_usage: bool | None = None


class CompletionRequest(_Schema):
    """What both kinds of completion are asked with."""

    model: str = Field(default="", description="Empty: the queen's default model.")
    max_tokens: Annotated[int, Field(ge=1, le=limits.MAX_TOKENS_LIMIT)] | None = None
    temperature: Annotated[float, Field(ge=0, le=limits.TEMPERATURE_MAX)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=limits.TOP_K_MAX)] | None = Field(
        default=None,
        description="Not one of OpenAI's: only so many likeliest tokens are candidates; 0: all.",
    )
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = Field(
        default=None, description="Of its 64 bits the lower 32 count."
    )
    stop: str | Annotated[list[str], Field(max_length=limits.STOP_COUNT_MAX)] | None = None
    n: int | None = Field(default=None, description="Only 1.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    metadata: dict[str, str] | None = Field(default=None, description="Become labels of the job.")

    @property
    def tokens_max(self) -> int:
        """Most tokens to generate; 0: as many as the queen finds right."""
        return self.max_tokens or 0

    @property
    def stops(self) -> Sequence[str]:
        """The strings that end the answer."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else self.stop

    @property
    def wants_usage(self) -> bool:
        """Whether a stream should end with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def check(self) -> None:
        """Refuse what is well formed and cannot be done here.

        Raises:
            Fault: INVALID_REQUEST with the parameter.
        """
        if self.n not in (None, 1):
            raise invalid("n: only one answer a request; send the request several times", field="n")
        if self.stream_options is not None and not self.stream:
            raise invalid("stream_options: only allowed with stream", field="stream_options")
        for name, value in (self.model_extra or {}).items():
            if value is None or name in _IGNORED or value in _NEUTRAL.get(name, ()):
                continue
            known = name in _NEUTRAL
            shown = name if len(name) <= 64 else f"{name[:61]}..."
            why = "is not supported by this server" if known else "there is no such parameter"
            raise invalid(f"{shown}: {why}", field=shown)


class ChatRequest(CompletionRequest):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=limits.MESSAGES_MAX)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=limits.MAX_TOKENS_LIMIT)] | None = None

    @property
    def tokens_max(self) -> int:
        """Most tokens to generate; the newer of the two parameters wins."""
        return self.max_completion_tokens or self.max_tokens or 0


class TextRequest(CompletionRequest):
    """`POST /v1/completions`."""

    prompt: str | Annotated[list[Any], Field(min_length=1)]

    @property
    def text(self) -> str:
        """The text to continue.

        Raises:
            Fault: There are several, or it is given as token ids.
        """
        prompt = self.prompt
        if isinstance(prompt, str):
            return prompt
        if len(prompt) == 1 and isinstance(prompt[0], str):
            return prompt[0]
        raise invalid(
            "prompt: give one text; lists of texts or of token ids are not supported",
            field="prompt",
        )


def parse(kind: type[RequestT], raw: bytes) -> RequestT:
    """Return the request.

    Raises:
        Fault: INVALID_REQUEST with the parameter at fault. What the client sent is never quoted.
    """
    try:
        request = kind.model_validate_json(raw)
    except ValidationError as fault:
        raise _first(fault) from None
    request.check()
    return request


def text_of(message: ChatMessage, path: str) -> str:
    """Return what a message says.

    Raises:
        Fault: INVALID_REQUEST: it says it with something else than text, or calls a tool.
    """
    extra = message.model_extra or {}
    for name in ("tool_calls", "function_call", "audio"):
        if extra.get(name):
            raise invalid(f"{path}.{name}: is not supported by this server", field=f"{path}.{name}")
    if message.content is None:
        return ""
    if isinstance(message.content, str):
        return message.content
    for index, part in enumerate(message.content):
        if part.type not in _TEXT_PARTS or part.text is None:
            at = f"{path}.content[{index}]"
            raise invalid(f"{at}: only parts of type text are supported", field=at)
    return "".join(part.text or "" for part in message.content)


_NAMES: Final = frozenset(
    name
    for kind in (ContentPart, ChatMessage, StreamOptions, ChatRequest, TextRequest)
    for name in kind.model_fields
)


def _first(fault: ValidationError) -> Fault:
    errors = fault.errors(include_input=False, include_url=False, include_context=False)
    # Of a parameter that may be of several kinds, each kind complains; the one that came furthest knows best.
    same = [one for one in errors if one["loc"][:1] == errors[0]["loc"][:1]]
    error = max(reversed(same), key=lambda one: len(one["loc"]))
    if error["type"] == "json_invalid":
        return invalid("the body is not valid JSON")
    path = ""
    for part in error["loc"]:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part in _NAMES:  # a union names its members here, too
            path += f".{part}" if path else part
    if not path:
        return invalid("the body must be a JSON object")
    message = error["msg"].removeprefix("Value error, ")
    return invalid(f"{path}: {message[:1].lower()}{message[1:]}", field=path)
