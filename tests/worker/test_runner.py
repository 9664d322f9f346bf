"""One generation in its slot: what it leaves behind however it ends, its spans, its speed."""

import asyncio
from collections.abc import Sequence

import pytest
from beeyard_core.refusal import Refusal, Refused
from beeyard_runtime.telemetry import setup_telemetry
from beeyard_runtime.testing import ManualClock
from beeyard_worker.engine.port import EngineFault, Generation, Token
from beeyard_worker.runner import Runner
from beeyard_worker.status import SpeedMeter
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from tests.support.scripted_engine import ScriptedEngine
from tests.worker.conftest import fresh_metrics, load, status_of

TRACEPARENT = f"00-{7:032x}-{9:016x}-01"
GENERATION = Generation(
    prompt="a",
    messages=(),
    max_tokens=8,
    temperature=0.0,
    top_p=1.0,
    top_k=0,
    seed=1,
    stop=(),
)


async def forget(tokens: Sequence[Token]) -> None:
    """Take tokens and keep none."""
    del tokens


async def runner_of(
    engine: ScriptedEngine, clock: ManualClock
) -> tuple[Runner, InMemorySpanExporter, "asyncio.Task[object]"]:
    """Start the generation on a loaded worker; return its runner, its spans and its task."""
    exporter = InMemorySpanExporter()
    telemetry = setup_telemetry("worker", exporter=exporter)
    status = status_of(clock, slots=2, kv_tokens=100)
    await load(engine, status, 100)
    runner = Runner(
        engine=engine, status=status, clock=clock, telemetry=telemetry, metrics=fresh_metrics()
    )
    plan = await runner.plan(GENERATION)
    assert plan == 9
    task: asyncio.Task[object] = asyncio.create_task(
        runner.run(
            "job-1",
            GENERATION,
            9,
            sink=forget,
            parent=telemetry.context_from(TRACEPARENT),
            attributes={"beeyard.job.id": "job-1"},
        )
    )
    await engine.until(lambda e: e.running)
    assert runner.refusal(91) is None
    assert runner.refusal(92) is not None

    def flushed(_task: object) -> None:
        telemetry.flush()

    task.add_done_callback(flushed)
    return runner, exporter, task


async def test_a_generation_has_a_prefill_and_a_decode_span_under_its_lease() -> None:
    engine = ScriptedEngine()
    runner, exporter, task = await runner_of(engine, ManualClock())
    engine.emit("a", 2)
    engine.finish("a")
    await asyncio.wait([task])
    await asyncio.sleep(0)
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert set(spans) == {"prefill", "decode"}
    for span in spans.values():
        assert span.parent is not None
        assert (span.parent.trace_id, span.parent.span_id) == (7, 9)
        assert span.attributes is not None
        assert span.attributes["beeyard.job.id"] == "job-1"
    assert spans["decode"].attributes is not None
    assert spans["decode"].attributes["gen_ai.usage.output_tokens"] == 2
    assert runner.refusal(100) is None


async def test_a_generation_that_breaks_frees_its_slot_and_ends_its_span_as_failed() -> None:
    engine = ScriptedEngine()
    runner, exporter, task = await runner_of(engine, ManualClock())
    engine.fail("a", EngineFault(Refusal.VRAM_OOM, "no memory left"))
    await asyncio.wait([task])
    await asyncio.sleep(0)
    assert isinstance(task.exception(), EngineFault)
    (span,) = exporter.get_finished_spans()
    assert span.attributes is not None
    assert span.attributes["error.type"] == "VRAM_OOM"
    assert span.status.status_code is StatusCode.ERROR
    # What an engine says of its fault may quote what it was asked.
    assert span.status.description is None
    assert runner.refusal(100) is None
    assert engine.running == set()


async def test_a_generation_that_is_stopped_frees_its_slot_and_is_no_error() -> None:
    engine = ScriptedEngine()
    runner, exporter, task = await runner_of(engine, ManualClock())
    task.cancel()
    await asyncio.wait([task])
    await asyncio.sleep(0)
    assert task.cancelled()
    (span,) = exporter.get_finished_spans()
    assert span.attributes is not None
    assert "error.type" not in span.attributes
    assert span.status.status_code is StatusCode.UNSET
    assert [event.name for event in span.events] == ["cancelled"]
    assert runner.refusal(100) is None
    assert engine.running == set()


async def test_a_draining_worker_plans_nothing() -> None:
    clock = ManualClock()
    engine, status = ScriptedEngine(), status_of(clock, slots=1, kv_tokens=10)
    runner = Runner(
        engine=engine,
        status=status,
        clock=clock,
        telemetry=setup_telemetry("worker"),
        metrics=fresh_metrics(),
    )
    early = await runner.plan(GENERATION)
    assert isinstance(early, Refused)
    assert early.reason is Refusal.WORKER_BUSY
    status.draining()
    late = await runner.plan(GENERATION)
    assert isinstance(late, Refused)
    assert late.reason is Refusal.DRAINING


def test_speed_is_that_of_one_slot_and_follows_a_change() -> None:
    meter = SpeedMeter()
    assert meter.tokens_per_s == 0.0
    meter.add(0, 0.0)
    assert meter.tokens_per_s == 0.0
    for _ in range(10):
        meter.add(100, 1_000.0)
    assert meter.tokens_per_s == pytest.approx(100.0)
    for _ in range(60):
        meter.add(50, 1_000.0)
    assert meter.tokens_per_s == pytest.approx(50.0, rel=0.01)
