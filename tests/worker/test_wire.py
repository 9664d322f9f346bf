"""Requests from anywhere become generations or refusals that name the field."""

import pytest
from beeyard.worker.v1 import engine_service_pb2 as pb
from beeyard.worker.v1 import generation_pb2
from beeyard_core import limits
from beeyard_core.refusal import Refusal, Refused
from beeyard_runtime.testing import ManualClock
from beeyard_worker import wire
from beeyard_worker.engine.port import EngineFacts, Finish, Generation, Token
from beeyard_worker.slots import Slots
from beeyard_worker.status import Identity, WorkerStatus


def read(default_max_tokens: int = 256, **fields: object) -> Generation | Refused:
    """Return what a request with these fields becomes."""
    request = pb.GenerateRequest(**fields)  # type: ignore[arg-type]
    return wire.generation_from(request, default_max_tokens=default_max_tokens, default_seed=11)


def test_what_is_unset_gets_its_default() -> None:
    assert read(prompt="bee") == Generation(
        prompt="bee",
        messages=(),
        max_tokens=256,
        temperature=limits.TEMPERATURE_DEFAULT,
        top_p=limits.TOP_P_DEFAULT,
        top_k=limits.TOP_K_DEFAULT,
        seed=11,
        stop=(),
    )


def test_what_is_set_counts_even_where_it_is_zero() -> None:
    generation = read(
        messages=[generation_pb2.ChatMessage(role="user", content="bee")],
        max_tokens=5,
        temperature=0.0,
        top_p=1.0,
        top_k=0,
        seed=0,
        stop=["\n"],
        resume_ids=[7, 8],
        resume_text=" a b",
        resume_count=2,
    )
    assert generation == Generation(
        prompt="",
        messages=(("user", "bee"),),
        max_tokens=5,
        temperature=0.0,
        top_p=1.0,
        top_k=0,
        seed=0,
        stop=("\n",),
        resume_ids=(7, 8),
        resume_text=" a b",
        resume_count=2,
    )


@pytest.mark.parametrize(("priority", "rank"), [(0, 2), (1, 1), (4, 4), (5, 2), (-1, 2)])
def test_the_class_of_a_job_is_its_rank_and_what_is_no_class_is_normal(
    priority: int, rank: int
) -> None:
    generation = wire.generation_from(
        pb.GenerateRequest(prompt="bee", seed=1),
        default_max_tokens=1,
        default_seed=1,
        priority=priority,
    )
    assert isinstance(generation, Generation)
    assert generation.rank == rank


MESSAGE = generation_pb2.ChatMessage(role="user", content="bee")


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("prompt", {}),
        ("prompt", {"prompt": "a", "messages": [MESSAGE]}),
        ("prompt", {"prompt": "a" * (limits.PROMPT_BYTES_MAX + 1)}),
        ("messages", {"messages": [MESSAGE] * (limits.MESSAGES_MAX + 1)}),
        ("messages[0].role", {"messages": [generation_pb2.ChatMessage(role="bee")]}),
        ("max_tokens", {"prompt": "a", "max_tokens": -1}),
        ("max_tokens", {"prompt": "a", "max_tokens": limits.MAX_TOKENS_LIMIT + 1}),
        ("max_tokens", {"prompt": "a", "default_max_tokens": 0}),
        ("temperature", {"prompt": "a", "temperature": float("nan")}),
        ("temperature", {"prompt": "a", "temperature": 2.1}),
        ("top_p", {"prompt": "a", "top_p": 0.0}),
        ("top_k", {"prompt": "a", "top_k": -1}),
        ("seed", {"prompt": "a", "seed": -1}),
        ("seed", {"prompt": "a", "seed": limits.SEED_MAX + 1}),
        ("stop", {"prompt": "a", "stop": ["x"] * (limits.STOP_COUNT_MAX + 1)}),
        ("stop[1]", {"prompt": "a", "stop": ["x", ""]}),
        ("stop[0]", {"prompt": "a", "stop": ["é" * limits.STOP_BYTES_MAX]}),
        ("resume_count", {"prompt": "a", "resume_count": -1}),
        ("resume_count", {"prompt": "a", "max_tokens": 3, "resume_count": 4}),
        ("resume_ids", {"prompt": "a", "resume_ids": [1], "resume_count": 2}),
    ],
)
def test_a_wrong_field_is_named(field: str, fields: dict[str, object]) -> None:
    refused = read(**fields)  # type: ignore[arg-type]
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.field) == (Refusal.INVALID_REQUEST, field)


def test_an_ending_tells_reason_usage_and_speed() -> None:
    finish = Finish(
        reason="length",
        prompt_tokens=3,
        completion_tokens=31,
        cached_prompt_tokens=2,
        prefill_ms=5.0,
        decode_ms=100.0,
    )
    finished = wire.finished_to_wire(finish, resume_count=10, total_ms=120.0)
    assert finished.reason == generation_pb2.FINISH_REASON_LENGTH
    assert finished.usage.completion_tokens == 31
    assert finished.usage.cached_prompt_tokens == 2
    assert (finished.timings.tokens_per_s, finished.timings.total_ms) == (200.0, 120.0)


def test_a_chunk_without_ids_still_counts_its_tokens() -> None:
    chunk = wire.chunk_to_wire(4, [Token(None, "a"), Token(None, ""), Token(None, "é")])
    assert (chunk.first_index, chunk.count, chunk.text, list(chunk.ids)) == (4, 3, "aé", [])


def test_a_worker_says_what_it_can_do_beyond_generating_once_it_knows() -> None:
    clock = ManualClock()
    identity = Identity(
        worker_id="w", pool_id="p", model="m", engine="e", device="cpu", incarnation="i",
        extensions=("lora:bees",),
    )  # fmt: skip
    status = WorkerStatus(identity, slots=Slots(1, 10), context_tokens=10, clock=clock)
    assert list(status.to_wire().extensions) == ["lora:bees"]
    facts = EngineFacts(
        engine="e", version="", deterministic=False, token_ids=True, context_tokens=10,
        quantization="", slots=1, caches_prefixes=True,
    )  # fmt: skip
    status.loaded(facts, Slots(1, 10))
    assert list(status.to_wire().extensions) == ["lora:bees", "prefix_cache", "token_ids"]
