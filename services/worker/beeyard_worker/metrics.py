"""A worker's figures for Prometheus: how full it is, and what it generated."""

from beeyard_core.refusal import Refusal
from beeyard_runtime.metrics import (
    DECODE_BUCKETS_MS,
    FIRST_TOKEN_BUCKETS_MS,
    Family,
    Figures,
    Sampled,
)

from beeyard_worker.engine.port import Finish
from beeyard_worker.status import WorkerStatus

_LABELS = ("engine", "engine_version", "model_id")
KV = Family("kv_cache_usage_ratio", "KV memory promised to answers, of all, 0 to 1.", _LABELS)
SLOTS = Family("slots", "Answers that are generated at once.", _LABELS)
SLOTS_FREE = Family("slots_free", "Slots in which nothing is generated.", _LABELS)
SPEED = Family("decode_tokens_per_second", "Measured speed of one slot.", _LABELS)


class WorkerMetrics:
    """What one worker process shows."""

    def __init__(self, figures: Figures, *, engine: str, model: str) -> None:
        """Begin with everything at zero."""
        self._engine, self._model = engine, model
        self._sampled = Sampled(figures)
        self._tokens_in = figures.counter("tokens_in", "Prompt tokens.", "model_id").of(model)
        self._cached = figures.counter(
            "tokens_in_cached", "Prompt tokens found in the prefix cache.", "model_id"
        ).of(model)
        self._tokens_out = figures.counter("tokens_out", "Tokens generated.", "model_id").of(model)
        self._prefill = figures.histogram(
            "latency_first_token_ms", "From the start of an attempt to its first token, ms.",
            "engine", buckets=FIRST_TOKEN_BUCKETS_MS,
        ).of(engine)  # fmt: skip
        self._decode = figures.histogram(
            "latency_decode_ms", "From the first to the last token of an attempt, ms.",
            "engine", buckets=DECODE_BUCKETS_MS,
        ).of(engine)  # fmt: skip
        self._broken = figures.counter("generations_failed", "Answers that broke.", "reason")

    def finished(self, finish: Finish, tokens: int) -> None:
        """Note an answer that ended by itself; `tokens` of it were generated here."""
        self._tokens_in.inc(finish.prompt_tokens)
        self._cached.inc(finish.cached_prompt_tokens)
        self._tokens_out.inc(tokens)
        self._prefill.observe(finish.prefill_ms)
        self._decode.observe(finish.decode_ms)

    def broke(self, reason: Refusal) -> None:
        """Note an answer that the engine broke off."""
        self._broken.of(reason.value).inc()

    def read(self, status: WorkerStatus) -> None:
        """Replace what a scrape finds by how things are now."""
        slots = status.slots
        labels = (self._engine, status.engine_version, self._model)
        used = slots.kv_tokens_total - slots.kv_tokens_free
        self._sampled.replace(
            {
                KV: [(labels, used / slots.kv_tokens_total if slots.kv_tokens_total else 0.0)],
                SLOTS: [(labels, float(slots.total))],
                SLOTS_FREE: [(labels, float(slots.free))],
                SPEED: [(labels, status.speed.tokens_per_s)],
            }
        )
