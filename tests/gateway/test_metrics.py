"""The figures: the names of the contract, bounded labels, and what they count."""

import re

import pytest
from beeyard.queen.v1 import job_pb2
from beeyard_core import limits
from beeyard_gateway.faults import Fault
from beeyard_gateway.metrics import GatewayMetrics
from beeyard_runtime.metrics import LabelValues

from tests.support.attached_worker import AttachedWorker
from tests.support.running_gateway import TEXT, RunningGateway, asking

#: The part of the contract's names that a gateway can know anything about.
NAMES = {
    "tasks_enqueued_total",
    "tasks_started_total",
    "tasks_canceled_total",
    "tasks_rejected_total",
    "admission_backpressure_events_total",
    "tokens_in_total",
    "tokens_out_total",
    "latency_first_token_ms",
    "latency_decode_ms",
}
LABELS = {"priority", "reason", "model_id", "le"}
BUDGET = {"priority": 8, "reason": 64, "model_id": 1_024}


def series_of(metrics: GatewayMetrics) -> list[tuple[str, dict[str, str]]]:
    found = []
    for line in metrics.exposition().decode().splitlines():
        if not line.startswith("#"):
            name, _, labels = line.rpartition(" ")[0].partition("{")
            found.append((name, dict(re.findall(r'(\w+)="([^"]*)"', labels))))
    return found


def flooded() -> GatewayMetrics:
    """Figures of a gateway to which everything happened that its labels allow, and more."""
    metrics = GatewayMetrics()
    for number in range(2_000):
        metrics.started(f"model-{number}")
        metrics.cancelled(f"reason-{number}")
        metrics.finished(
            f"model-{number}",
            job_pb2.PRIORITY_BATCH,
            tokens_in=1,
            tokens_out=2,
            decode_ms=300.0,
        )
        with pytest.raises(Fault), metrics.counting_refusals():
            raise Fault(f"MADE_UP_{number}", "no", retry_after_ms=5)
    for priority in (0, 1, 2, 3, 4):
        metrics.enqueued(job_pb2.Priority.ValueType(priority))
        metrics.first_token(job_pb2.Priority.ValueType(priority), 60.0)
    return metrics


def test_no_label_has_more_values_than_its_budget() -> None:
    values: dict[tuple[str, str], set[str]] = {}
    for name, labels in series_of(flooded()):
        for label, value in labels.items():
            values.setdefault((name, label), set()).add(value)
    over = {
        f"{name}{{{label}}}": len(found)
        for (name, label), found in values.items()
        if label != "le" and len(found) > BUDGET[label]
    }
    assert over == {}
    assert len(values["tasks_started_total", "model_id"]) == limits.METRIC_MODELS_MAX
    assert "other" in values["tasks_started_total", "model_id"]


def test_every_name_and_label_is_in_the_contract() -> None:
    for name, labels in series_of(flooded()):
        assert re.sub(r"_(bucket|count|sum)$", "", name) in NAMES
        assert set(labels) <= LABELS, name


def test_a_value_that_is_known_stays_itself_when_the_bound_is_reached() -> None:
    label = LabelValues(2)
    assert [label(value) for value in ("a", "b", "a", "c")] == ["a", "other", "a", "other"]


async def test_one_answer_is_counted_from_its_acceptance_to_its_tokens(
    gateway: RunningGateway, worker: AttachedWorker
) -> None:
    async with asking(gateway.client, "/v1/completions", TEXT) as asked:
        await worker.serve(await worker.offer(), " the", " hive")
        await asked
    await gateway.client.post("/v1/completions", json={**TEXT, "n": 2})
    figures = await gateway.figures()
    assert figures['tasks_enqueued_total{priority="NORMAL"}'] == 1
    assert figures['tasks_started_total{model_id="tiny"}'] == 1
    assert figures['tokens_in_total{model_id="tiny"}'] == 3
    assert figures['tokens_out_total{model_id="tiny"}'] == 2
    assert figures['latency_first_token_ms_count{priority="NORMAL"}'] == 1
    assert figures['tasks_rejected_total{reason="INVALID_REQUEST"}'] == 1
    # Nobody who was refused for good was asked to come back.
    assert not any(name.startswith("admission_backpressure") for name in figures)
