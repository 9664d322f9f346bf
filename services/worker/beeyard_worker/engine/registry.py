"""Which engines there are, and how a worker's settings choose one."""

import dataclasses
import pathlib
from typing import Final

from beeyard_core.batching.planner import BatchPlanner
from beeyard_core.batching.step_plan import StepBounds
from beeyard_core.limits import (
    BATCH_PREFILL_TOKENS_MAX,
    KV_PAGE_TOKENS,
    SLOTS_MAX,
    WORKER_LOAD_TIMEOUT_MS,
)
from beeyard_core.refusal import Refusal
from beeyard_runtime.clock import Clock
from beeyard_runtime.models.package_model import (
    PackageModelMissing,
    is_package_source,
    resolve_package_model,
)

from beeyard_worker.engine.llamacpp import LlamaCppEngine
from beeyard_worker.engine.llamacpp_options import LlamaOptions
from beeyard_worker.engine.openai_http import OpenAIHttpEngine, UpstreamOptions
from beeyard_worker.engine.port import Engine, EngineFault
from beeyard_worker.engine.synthetic import BATCH_TOKENS, SyntheticEngine
from beeyard_worker.engine.synthetic_steps import PREFIX, SteppedSyntheticEngine, StepTimes

ENGINES: Final = ("llamacpp", "openai_http", "synthetic")
_CPU: Final = "cpu"
_SYNTHETIC_CONTEXT_TOKENS: Final = 8_192


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What a worker's settings say of its engine.

    Attributes:
        engine: One of `ENGINES`.
        source: A path or `package:NAME` for llamacpp, `URL#model` for openai_http, tokens a second for synthetic.
        step_tokens: For synthetic without a rate; 0: its own.
        device: `cpu`, or the UUID of the GPU that the process was given.
        slots: Generations at once.
        kv_tokens: KV memory that all slots share; 0: a context for each slot.
        step_target_ms: What its steps should take at most; 0: as long as they take.
        prefill_tokens_max: Prompt tokens of one of its steps at most; 0: the engine's own.
        context_tokens: Context of each; 0: the engine's own.
        threads: For llamacpp on the CPU; 0: half of the cores.
        reuse_prefix: For llamacpp: as `LlamaOptions.reuse_prefix`.
        package_cache: Folder for models that come as packages.
        api_key: For openai_http.
        strict: For openai_http: ask for nothing that is not in OpenAI's own API.
        command: Starts the server of openai_http; empty: it runs already.
    """

    engine: str
    source: str
    step_tokens: int = 0
    device: str = _CPU
    slots: int = 1
    kv_tokens: int = 0
    step_target_ms: int = 0
    prefill_tokens_max: int = 0
    context_tokens: int = 0
    threads: int = 0
    reuse_prefix: bool | None = None
    package_cache: pathlib.Path
    api_key: str = dataclasses.field(default="", repr=False)
    strict: bool = False
    command: tuple[str, ...] = ()


def build_engine(settings: EngineSettings, clock: Clock) -> Engine:
    """Return the engine that the settings choose, not loaded yet.

    A packaged model is joined here on first use, which takes a second: call it off the event loop, or before it.

    Raises:
        EngineFault: INVALID_REQUEST for settings that name no engine; MODEL_LOAD_FAILED for a missing package.
    """
    if not 1 <= settings.slots <= SLOTS_MAX:
        raise EngineFault(Refusal.INVALID_REQUEST, f"slots must be 1 to {SLOTS_MAX}")
    match settings.engine:
        case "llamacpp":
            return _llamacpp(settings)
        case "openai_http":
            options = UpstreamOptions(
                slots=settings.slots,
                context_tokens=settings.context_tokens,
                api_key=settings.api_key,
                extensions=not settings.strict,
                command=settings.command,
            )
            return OpenAIHttpEngine(settings.source, clock, options)
        case "synthetic" if settings.source.startswith(PREFIX):
            return _stepped(settings, clock)
        case "synthetic":
            rate, load_ms = _rate(settings.source)
            return SyntheticEngine(
                clock,
                tokens_per_s=rate,
                load_ms=load_ms,
                step_tokens=settings.step_tokens or BATCH_TOKENS,
                slots=settings.slots,
                context_tokens=settings.context_tokens or _SYNTHETIC_CONTEXT_TOKENS,
            )
        case unknown:
            raise EngineFault(
                Refusal.INVALID_REQUEST,
                f"there is no engine {unknown!r}; choose {', '.join(ENGINES)}",
            )


def _stepped(settings: EngineSettings, clock: Clock) -> SteppedSyntheticEngine:
    context_tokens = settings.context_tokens or _SYNTHETIC_CONTEXT_TOKENS
    return SteppedSyntheticEngine(
        clock,
        times=StepTimes.parse(settings.source),
        planner=_planner(settings, context_tokens),
        slots=settings.slots,
        context_tokens=context_tokens,
    )


def _planner(settings: EngineSettings, context_tokens: int) -> BatchPlanner:
    """Return the planner of an engine whose sequences may have so much context."""
    bounds = StepBounds(
        step_ms=settings.step_target_ms,
        prefill_tokens_max=settings.prefill_tokens_max or BATCH_PREFILL_TOKENS_MAX,
    )
    kv_tokens = settings.kv_tokens or settings.slots * context_tokens
    # At least one page: what does not fit is then refused by its size, request by request.
    return BatchPlanner(
        slots_max=settings.slots, kv_tokens=max(kv_tokens, KV_PAGE_TOKENS), bounds=bounds
    )


def _llamacpp(settings: EngineSettings) -> LlamaCppEngine:
    path = pathlib.Path(settings.source)
    if is_package_source(settings.source):
        try:
            path = resolve_package_model(settings.source, settings.package_cache)
        except PackageModelMissing as error:
            raise EngineFault(Refusal.MODEL_LOAD_FAILED, str(error)) from error
    options = LlamaOptions(
        slots=settings.slots,
        context_tokens=settings.context_tokens,
        threads=settings.threads,
        kv_tokens=settings.kv_tokens,
        step_target_ms=settings.step_target_ms,
        prefill_tokens_max=settings.prefill_tokens_max,
        gpu_layers=0 if settings.device == _CPU else -1,
        reuse_prefix=settings.reuse_prefix,
    )
    return LlamaCppEngine(path, options)


def _rate(source: str) -> tuple[float, int]:
    """Return the tokens a second and the milliseconds of loading that a source such as `200` or `200,load=3` names."""
    rate_text, comma, load_text = source.partition(",load=")
    try:
        rate, load_s = float(rate_text or 0), float(load_text) if comma else 0.0
    except ValueError:
        rate = load_s = -1.0
    if not (0 <= rate < float("inf") and 0 <= load_s * 1_000 <= WORKER_LOAD_TIMEOUT_MS):
        raise EngineFault(
            Refusal.INVALID_REQUEST,
            "the source of a synthetic model is its tokens a second, 0 for no limit, "
            "and maybe ,load=SECONDS; or steps:...",
        )
    return rate, round(load_s * 1_000)
