"""The specification's example policies, each in a small world where a reader can see what it should do.

The Lua and YAML ones are the specification's own texts, unchanged; the Rhai ones are translated to Lua. Each runs in a
real sandbox; those that return a worker for each job (`schedule_job`) decide for the whole queue at once.
"""

import json
from pathlib import Path
from typing import Any, cast

import pytest
from beeyard_queen.policy.context_file import read_context
from beeyard_queen.policy.trial import Trial, read_source, run_trial, sandbox

EXAMPLES = Path(__file__).parent / "examples"
GIB = 1 << 30
Plain = dict[str, object]


def job(job_id: str, model: str = "llama-7b", **more: object) -> Plain:
    return {"id": job_id, "model_ref": model, **more}


def worker(worker_id: str, model: str = "llama-7b", **more: object) -> Plain:
    return {
        "id": worker_id, "model_ref": model, "slots_total": 4, "slots_free": 4,
        "vram_free": 8 * GIB, **more,
    }  # fmt: skip


async def try_out(example: str, queue: list[Plain], workers: list[Plain]) -> Trial:
    """Run an example once in a world of one pool."""
    scene = read_context(json.dumps({"queue": queue, "pools": [{"id": "p", "workers": workers}]}))
    async with sandbox() as zygote:
        return await run_trial(zygote, read_source(EXAMPLES / example), scene)


async def placed(example: str, queue: list[Plain], workers: list[Plain]) -> dict[object, object]:
    """Return which worker an example gives each job that it places."""
    trial = await try_out(example, queue, workers)
    assert trial.verdict == "decision", trial.reason
    # What crossed the border is plain, but of any shape.
    flat = [each for one in trial.decisions for each in cast("Any", one).get("actions", [one])]
    return {each["job_id"]: each["worker_id"] for each in flat if each["action"] == "dispatch"}


@pytest.mark.parametrize("example", ["determinism-first.lua", "determinism-first.yaml"])
async def test_determinism_first_places_the_job_with_a_seed_before_older_ones(example: str) -> None:
    queue = [job("older"), job("seeded", seed=42)]
    assert await placed(example, queue, [worker("w")]) == {"seeded": "w"}


@pytest.mark.parametrize("example", ["determinism-first.lua", "determinism-first.yaml"])
async def test_determinism_first_leaves_other_jobs_to_the_platform(example: str) -> None:
    queue = [job("older"), job("urgent", priority="interactive")]
    assert await placed(example, queue, [worker("w")]) == {"urgent": "w"}


@pytest.mark.parametrize("example", ["batch-to-most-vram.lua", "batch-to-most-vram.yaml"])
async def test_batch_jobs_go_to_the_worker_with_the_most_memory_free(example: str) -> None:
    workers = [worker("small", tokens_per_s=90), worker("large", vram_free=20 * GIB)]
    assert await placed(example, [job("b", priority="batch")], workers) == {"b": "large"}


async def test_batch_to_most_vram_leaves_other_jobs_to_the_platform() -> None:
    workers = [worker("fast", tokens_per_s=90), worker("large", vram_free=20 * GIB)]
    queue = [job("i", priority="interactive")]
    assert await placed("batch-to-most-vram.lua", queue, workers) == {"i": "fast"}


async def test_the_cost_optimizer_takes_the_cheapest_worker() -> None:
    workers = [worker("dear", cost_per_token=0.9), worker("cheap", cost_per_token=0.1)]
    assert await placed("cost.lua", [job("j")], workers) == {"j": "cheap"}


async def test_the_latency_optimizer_takes_the_nearest_worker() -> None:
    berlin, munich, tokyo = (52.5, 13.4), (48.1, 11.6), (35.7, 139.7)
    workers = [worker("tokyo", geo=geo(tokyo)), worker("munich", geo=geo(munich))]
    queue = [job("j", user={"geo": geo(berlin)})]
    assert await placed("latency.lua", queue, workers) == {"j": "munich"}


def geo(place: tuple[float, float]) -> Plain:
    return {"lat": place[0], "lon": place[1]}


async def test_the_multi_modal_router_sends_each_kind_to_its_workers() -> None:
    queue = [
        job("picture", "sdxl", type="image-gen"),
        job("large", "llama-70b"),
        job("text", "llama-7b"),
    ]
    workers = [
        worker("busy-painter", "sdxl", capability="image-gen", load=0.5, cost_per_token=0.5),
        worker("painter", "sdxl", capability="image-gen", cost_per_token=0.5),
        worker("many-gpus", "llama-70b", gpu_ids=["0", "1"], cost_per_token=0.9),
        worker("cheap", "llama-7b", cost_per_token=0.1),
    ]
    assert await placed("multi-modal-router.lua", queue, workers) == {
        "picture": "painter",
        "large": "many-gpus",
        "text": "cheap",
    }


async def test_large_models_go_to_several_gpus_and_the_rest_to_the_cheapest() -> None:
    queue = [job("large", "llama-70b"), job("small", "llama-7b")]
    workers = [
        worker("one-gpu", "llama-70b", gpu_ids=["0"], cost_per_token=0.5),
        worker("two-gpus", "llama-70b", gpu_ids=["0", "1"], cost_per_token=0.9),
        worker("cheap", "llama-7b", cost_per_token=0.1),
    ]
    expected = {"large": "two-gpus", "small": "cheap"}
    assert await placed("large-models-to-many-gpus.lua", queue, workers) == expected
