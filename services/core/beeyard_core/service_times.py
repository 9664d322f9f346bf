"""How long a model's jobs took: what a job of a given size is expected to need, out of nothing but measurements.

A job's time on its slot is the time to its first token, which grows with the prompt, and then a time for each token.
How many tokens there will be nobody knows; a client says how many there may be, and models use a typical share of that,
which depends on how much was allowed. So prompts and answers are sorted into sizes, each twice the one before.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from beeyard_core import history_limits
from beeyard_core.history import JobRecord
from beeyard_core.job import JobSpec
from beeyard_core.sketch import Average, QuantileSketch


class Expectation(NamedTuple):
    """What one job is expected to need: tokens of its answer, milliseconds on its slot, and the spread of those."""

    tokens: int
    service_ms: float
    spread_ms: float


class Measured(NamedTuple):
    """What one answer took.

    Attributes:
        prompt_tokens: As the queen estimated them, since that is what the next job is known by.
        max_tokens: Tokens that were allowed.
        answer_tokens: Tokens that came.
        first_token_ms: From the start of the attempt to its first token; 0: the worker did not say.
        decode_ms: From the first token to the last.
        service_ms: From the lease to the end, as the queen saw it.
    """

    prompt_tokens: int
    max_tokens: int
    answer_tokens: int
    first_token_ms: float
    decode_ms: float
    service_ms: float


@dataclass(slots=True)
class Distribution:
    """A figure's mean and its quantiles."""

    average: Average = field(default_factory=Average)
    sketch: QuantileSketch = field(default_factory=QuantileSketch)

    def add(self, value: float) -> None:
        """Take in one measurement."""
        self.average.add(value)
        self.sketch.add(value)


@dataclass(slots=True)
class ModelTimes:
    """The measurements of one model.

    Attributes:
        first: Milliseconds to the first token for each token of the prompt, by the prompt's size.
        token: Milliseconds for each further token.
        share: Tokens that came, as a share of those that were allowed, by how many were allowed.
        service: Milliseconds on the slot.
        off: How far the time on the slot was from what was expected of it, as a share of that, by the answer's size.
    """

    first: dict[int, Distribution] = field(default_factory=dict)
    token: Distribution = field(default_factory=Distribution)
    share: dict[int, Distribution] = field(default_factory=dict)
    service: Distribution = field(default_factory=Distribution)
    off: dict[int, Average] = field(default_factory=dict)

    def add(self, measured: Measured, expected_ms: int = 0) -> None:
        """Take in one answer. An answer of a single token says nothing about the time between tokens.

        Args:
            measured: The answer.
            expected_ms: What had been expected of it; 0: nothing.
        """
        prompt_size, answer_size = size_of(measured.prompt_tokens), size_of(measured.max_tokens)
        if expected_ms:
            off = self.off.setdefault(answer_size, Average())
            off.add((measured.service_ms - expected_ms) / expected_ms)
        if measured.first_token_ms > 0:
            per_token = measured.first_token_ms / max(measured.prompt_tokens, 1)
            self.first.setdefault(prompt_size, Distribution()).add(per_token)
        if measured.answer_tokens > 1:
            self.token.add(measured.decode_ms / (measured.answer_tokens - 1))
        share = measured.answer_tokens / max(measured.max_tokens, 1)
        self.share.setdefault(answer_size, Distribution()).add(share)
        self.service.add(measured.service_ms)

    def expect(self, spec: JobSpec) -> Expectation | None:
        """Return what a job is expected to need; None before enough was measured."""
        prompt_tokens, max_tokens = spec.prompt_tokens, spec.max_tokens
        if self.service.average.n < history_limits.FORECAST_MEASURED_MIN:
            return None
        answer_size = size_of(max_tokens)
        share = _nearest(self.share, answer_size)
        first = _nearest(self.first, size_of(prompt_tokens))
        tokens = max(max_tokens * share.mean, 1.0) if share else float(max_tokens)
        first_ms = first.mean * max(prompt_tokens, 1) if first else 0.0
        service_ms = first_ms + (tokens - 1.0) * self.token.average.mean
        off = self.off.get(answer_size)
        # A spread around what is expected; an expectation that is always too low is put right by `residuals.py`.
        away = off.variance + off.mean * off.mean if off else 1.0
        return Expectation(max(round(tokens), 1), service_ms, service_ms * away**0.5)


def measured_of(record: JobRecord) -> Measured:
    """Return what the answer of a remembered job took."""
    return Measured(
        prompt_tokens=record.prompt_tokens,
        max_tokens=record.max_tokens,
        answer_tokens=record.answer_tokens,
        first_token_ms=record.prefill_ms,
        decode_ms=record.decode_ms,
        service_ms=record.service_ms,
    )


def size_of(tokens: int) -> int:
    """Return the size that a number of tokens belongs to: 1 for 1, 2 for 2 and 3, 3 for 4 to 7, and so on."""
    return min(max(tokens, 1), history_limits.FORECAST_TOKENS_MAX).bit_length()


def _nearest(by_size: dict[int, Distribution], size: int) -> Average | None:
    """Return the measurements of the size, or else of the nearest one of which there are some."""
    found = by_size.get(size)
    if found is None and by_size:
        found = by_size[min(by_size, key=lambda each: (abs(each - size), each))]
    return found.average if found is not None else None
