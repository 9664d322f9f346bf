"""What an operator may write behind `--model NAME=`, and what it means.

`NAME=models/tiny.gguf` is a file, `NAME=package:gemma3-270m` a model that comes as Python packages,
`NAME=synthetic:200` deterministic tokens at 200 a second (for tests and benchmarks; `synthetic:200,load=3` pretends to
load for three seconds), and `NAME=http://127.0.0.1:8000/v1#upstream-model` a model behind an OpenAI-compatible server.
"""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from beeyard_core import limits
from beeyard_runtime.models.package_model import is_package_source

_RATE_MAX_TOKENS_PER_S = 1e7


@dataclass(frozen=True, slots=True)
class FileModel:
    """A GGUF file."""

    path: Path


@dataclass(frozen=True, slots=True)
class PackageModel:
    """A model that is joined from installed packages on first use."""

    source: str


@dataclass(frozen=True, slots=True)
class SyntheticModel:
    """Deterministic tokens at a set rate; no model at all."""

    tokens_per_s: str


@dataclass(frozen=True, slots=True)
class HttpModel:
    """A model behind an OpenAI-compatible server; `source` is `URL#upstream-model`."""

    source: str


ModelSource = FileModel | PackageModel | SyntheticModel | HttpModel


class ModelSourceInvalid(ValueError):
    """The text behind `--model` has no known form. The message says what is expected: correct it there."""


def parse_model(text: str) -> tuple[str, ModelSource]:
    """Return the name and source out of `NAME=SOURCE`.

    Raises:
        ModelSourceInvalid: It has none of the known forms.
    """
    name, equals, source = text.partition("=")
    name, source = name.strip(), source.strip()
    if not equals or not name or not source:
        raise ModelSourceInvalid(f"{text!r} must be NAME=SOURCE")
    if len(name.encode()) > limits.ID_BYTES_MAX or not name.isprintable():
        raise ModelSourceInvalid(
            f"the model name in {text!r} must be printable and at most {limits.ID_BYTES_MAX} bytes"
        )
    if is_package_source(source):
        return name, PackageModel(source)
    if source.startswith("synthetic:"):
        return name, SyntheticModel(_parse_rate(text, source.removeprefix("synthetic:")))
    if source.startswith(("http://", "https://")):
        return name, _parse_url(text, source)
    return name, FileModel(Path(source).expanduser())


def _parse_rate(text: str, source: str) -> str:
    """Return `RATE` or `RATE,load=SECONDS` as it is, if both are numbers that can be."""
    rate, comma, load = source.partition(",load=")
    try:
        tokens_per_s, load_s = float(rate), float(load) if comma else 0.0
    except ValueError:
        tokens_per_s = load_s = -1.0
    is_load = 0 <= load_s * 1_000 <= limits.WORKER_LOAD_TIMEOUT_MS
    if not (0 <= tokens_per_s <= _RATE_MAX_TOKENS_PER_S and is_load):
        raise ModelSourceInvalid(
            f"{text!r}: after synthetic: comes a rate in tokens a second, such as synthetic:200, "
            "and maybe the seconds that loading pretends to take, such as synthetic:200,load=3"
        )
    return source


def _parse_url(text: str, source: str) -> HttpModel:
    try:
        parts = urlsplit(source)
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError:
        raise ModelSourceInvalid(f"{text!r} is no valid URL") from None
    if not parts.hostname or not port_is_valid:
        raise ModelSourceInvalid(f"{text!r} is no valid URL")
    if not parts.fragment:
        raise ModelSourceInvalid(
            f"{text!r} must end in #MODEL, the name by which that server knows the model"
        )
    return HttpModel(source)
