"""Worlds written as JSON: the context's own names, and an error with a path for everything else."""

import json

import pytest
from beeyard_queen.policy.context_file import ContextInvalid, read_context
from beeyard_queen.policy.try_command import read_scene


def test_the_sample_has_what_its_description_promises() -> None:
    world = read_scene(None).world
    assert set(world.jobs) >= {"job-1", "job-2", "job-3"}
    assert set(world.workers) >= {"worker-1", "worker-2", "worker-3"}
    assert set(world.models) >= {"llama-7b", "llama-13b", "m1"}
    assert world.pools
    assert world.gpus
    assert world.tenants


def test_derived_fields_become_instants() -> None:
    job = {
        "id": "j",
        "wait_time_ms": 300,
        "deadline_ms": 1000,
        "created_at": 500,
        "labels": {"b": "2", "a": "1"},
    }
    worker = {"id": "w", "uptime_s": 0.0, "gpu_ids": ["g0", "g1"], "geo": {"lat": 1, "lon": 2.5}}
    text = json.dumps({"now_ms": 2000, "queue": [job], "pools": [{"id": "p", "workers": [worker]}]})
    world = read_context(text).world
    read = world.jobs["j"]
    assert (read.queued_at, read.deadline_at, read.seq) == (1700, 1500, 1)
    assert read.labels == (("a", "1"), ("b", "2"))
    placed = world.workers["w"]
    assert (placed.pool_id, placed.started_at, placed.gpu_ids) == ("p", 2000, "g0,g1")
    assert (placed.geo_lat, placed.geo_lon) == (1.0, 2.5)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "not JSON"),
        ("[]", "context: an object expected"),
        ('{"now_ms": NaN}', "NaN is no number"),
        ('{"now_ms": "x"}', "now_ms: a whole number"),
        ('{"jobs": []}', "context.jobs: unknown"),
        ('{"queue": {}}', "queue: a list expected"),
        ('{"queue": [{}]}', "queue[1].id is missing"),
        ('{"queue": [{"id": 5}]}', "queue[1].job_id: str expected"),
        ('{"queue": [{"id": "j", "modelref": "m"}]}', "queue[1].modelref: unknown"),
        ('{"queue": [{"id": "j", "priority": "high"}]}', "queue[1].priority: one of interactive"),
        ('{"queue": [{"id": "j", "max_tokens": 1.5}]}', "queue[1].max_tokens: a whole number"),
        ('{"queue": [{"id": "j", "labels": {"a": 1}}]}', "queue[1].labels.a: a text expected"),
        ('{"queue": [{"id": "j", "user": {"name": "x"}}]}', "queue[1].user.name: unknown"),
        (
            '{"pools": [{"id": "p", "workers": [{"id": "w", "load": "1"}]}]}',
            "pools[1].workers[1].load",
        ),
        ('{"pools": [{"id": "p", "gpus": [{"name": "x"}]}]}', "pools[1].gpus[1].id is missing"),
        ('{"catalog": {"models": [{"ref": "m", "vram": 1}]}}', "catalog.models[1].vram: unknown"),
        ('{"catalog": {"aliases": {"a": 1}}}', "catalog.aliases.a: a model expected"),
        ('{"metrics": {"a": "1"}}', "metrics.a: a number expected"),
        ('{"config": {"a": []}}', "config.a: a text, number or boolean"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_fault_is_told_with_its_path(text: str, told: str) -> None:
    with pytest.raises(ContextInvalid) as fault:
        read_context(text)
    assert told in str(fault.value)
