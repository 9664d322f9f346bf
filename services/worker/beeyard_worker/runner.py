"""Runs one generation: in a slot, on the engine, with its spans, measured.

Both ways in use it: a lease of the queen (`leases`) and a direct call (`engine_service`). What comes out
goes into a sink of the caller; a sink that waits makes the engine wait, which is all the flow control
there is.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

from beeyard_core.refusal import Refusal, Refused
from beeyard_runtime import semconv
from beeyard_runtime.clock import Clock
from beeyard_runtime.telemetry import Telemetry
from opentelemetry.context import Context
from opentelemetry.trace import Span, StatusCode

from beeyard_worker.engine.port import Engine, EngineFault, Finish, Generation, Token
from beeyard_worker.kv_plan import plan_kv
from beeyard_worker.metrics import WorkerMetrics
from beeyard_worker.status import WorkerStatus

Sink = Callable[[Sequence[Token]], Awaitable[None]]
Attributes = Mapping[str, str | int]

# The clock is read once for so many tokens, not at each step: at a step a microsecond it would show.
_MEASURED_TOKENS = 32


class Runner:
    """The engine with its slots round it."""

    def __init__(
        self,
        *,
        engine: Engine,
        status: WorkerStatus,
        clock: Clock,
        telemetry: Telemetry,
        metrics: WorkerMetrics,
    ) -> None:
        """Run on `engine` within the slots of `status`."""
        self._engine = engine
        self._status = status
        self._clock = clock
        self._telemetry = telemetry
        self._metrics = metrics

    async def plan(self, generation: Generation) -> int | Refused:
        """Return the KV tokens that the generation may need, or why this worker can never run it.

        Raises:
            EngineFault: The engine cannot count the prompt.
        """
        if refused := self._status.refusal():
            return refused
        prompt_tokens = await self._engine.count_prompt_tokens(generation)
        return plan_kv(
            prompt_tokens=prompt_tokens,
            max_tokens=generation.max_tokens,
            context_tokens=self._status.context_tokens,
            kv_tokens_total=self._status.kv_tokens_max,
            page_tokens=self._status.kv_page_tokens,
        )

    def refusal(self, kv_tokens: int) -> Refused | None:
        """Return why a generation that needs `kv_tokens` cannot start this instant; None if it can."""
        if refused := self._status.refusal():
            return refused
        if self._status.slots.can_accept(kv_tokens):
            return None
        return Refused(
            reason=Refusal.WORKER_BUSY,
            message="no slot, or too little KV memory, is free on this worker",
            metadata={
                "slots_free": str(self._status.slots.free),
                "kv_tokens_free": str(self._status.slots.kv_tokens_free),
                "kv_tokens_needed": str(kv_tokens),
            },
        )

    async def run(
        self,
        job_id: str,
        generation: Generation,
        kv_tokens: int,
        *,
        sink: Sink,
        parent: Context,
        attributes: Attributes,
    ) -> Finish:
        """Generate in a slot until the end; cancelling the task frees the slot.

        The slot is taken before anything is awaited, so a caller that asked `refusal` gets it.

        Args:
            job_id: Unique among what runs on this worker.
            generation: What to generate.
            kv_tokens: As `plan` said.
            sink: Takes the tokens of each engine step; while it waits, the engine waits.
            parent: The trace to go on with.
            attributes: Ids for the spans.

        Returns:
            How the generation ended by itself.

        Raises:
            EngineFault: The generation broke.
            WorkerBusy: There is no room; ask `refusal` first.
        """
        with self._seat(job_id, kv_tokens), _Phases(self._telemetry, parent, attributes) as phases:
            try:
                return await self._steps(generation, sink, phases)
            except EngineFault as fault:
                self._metrics.broke(fault.reason)
                raise

    @contextlib.contextmanager
    def _seat(self, job_id: str, kv_tokens: int) -> Iterator[None]:
        slots = self._status.slots
        slots.schedule(job_id, kv_tokens)
        slots.mark_executing(job_id)
        try:
            yield
        except BaseException:
            slots.mark_failed(job_id)
            raise
        else:
            slots.mark_completed(job_id)
        finally:
            slots.clear()

    async def _steps(self, generation: Generation, sink: Sink, phases: "_Phases") -> Finish:
        measured, since_ms = 0, 0
        async with contextlib.aclosing(self._engine.generate(generation)) as steps:
            async for step in steps:
                if isinstance(step, Finish):
                    self._status.speed.add(measured, self._clock.now().mono_ms - since_ms)
                    phases.finished(step)
                    self._metrics.finished(step, step.completion_tokens - generation.resume_count)
                    return step
                if not since_ms:
                    # The first token ends the prefill, so decoding is measured from here on.
                    phases.first_token()
                    since_ms = self._clock.now().mono_ms
                else:
                    measured += len(step)
                await sink(step)
                if measured >= _MEASURED_TOKENS:
                    now_ms = self._clock.now().mono_ms
                    self._status.speed.add(measured, now_ms - since_ms)
                    measured, since_ms = 0, now_ms
        raise EngineFault(Refusal.WORKER_ERROR, "the engine ended an answer without saying how")


class _Phases:
    """The spans of one generation: `prefill` until the first token, then `decode`."""

    def __init__(self, telemetry: Telemetry, parent: Context, attributes: Attributes) -> None:
        self._tracer = telemetry.tracer
        self._parent = parent
        self._attributes = attributes
        self._span: Span = self._start(semconv.SPAN_PREFILL)

    def __enter__(self) -> "_Phases":
        return self

    def __exit__(self, _kind: object, fault: BaseException | None, _traceback: object) -> None:
        if isinstance(fault, asyncio.CancelledError):
            # Whoever stopped it knows why: the queen, whose lease says so, or a caller who hung up.
            self._span.add_event(semconv.EVENT_CANCELLED)
        elif fault is not None:
            reason = fault.reason.value if isinstance(fault, EngineFault) else type(fault).__name__
            self._span.set_attribute(semconv.ERROR_TYPE, reason)
            self._span.set_status(StatusCode.ERROR)
        self._span.end()

    def first_token(self) -> None:
        self._span.end()
        self._span = self._start(semconv.SPAN_DECODE)

    def finished(self, finish: Finish) -> None:
        self._span.set_attribute(semconv.GEN_AI_INPUT_TOKENS, finish.prompt_tokens)
        self._span.set_attribute(semconv.GEN_AI_OUTPUT_TOKENS, finish.completion_tokens)
        self._span.set_attribute(semconv.GEN_AI_FINISH_REASONS, (finish.reason,))

    def _start(self, name: str) -> Span:
        return self._tracer.start_span(name, context=self._parent, attributes=self._attributes)
