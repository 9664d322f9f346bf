"""Prompts as paths of hashes: what goes on has the path of what it goes on from, and nothing else can be read there."""

from beeyard.worker.v1.engine_service_pb2 import EngineStatus, GenerateRequest
from beeyard.worker.v1.generation_pb2 import ChatMessage
from beeyard_core import limits
from beeyard_queen.ingress.prefix_path import PrefixPaths
from beeyard_queen.ingress.worker_wire import report_of

BLOCK = limits.PREFIX_BLOCK_BYTES
PATHS = PrefixPaths(key=b"k" * 32)


def path_of(text: str, *, tenant: str = "t", model: str = "m") -> tuple[int, ...]:
    return PATHS.path_of(GenerateRequest(prompt=text), tenant_id=tenant, model=model)


def talk_path(*turns: tuple[str, str]) -> tuple[int, ...]:
    messages = [ChatMessage(role=role, content=content) for role, content in turns]
    return PATHS.path_of(GenerateRequest(messages=messages), tenant_id="t", model="m")


def test_a_path_has_a_hash_for_each_whole_block() -> None:
    text = "x" * 10 * BLOCK
    assert [len(path_of(text[:n])) for n in (0, BLOCK - 1, BLOCK, 2 * BLOCK + 7)] == [0, 0, 1, 2]
    assert len(set(path_of(text))) == 10


def test_what_goes_on_begins_with_the_same_path() -> None:
    first = path_of("a" * 2 * BLOCK + "b" * BLOCK)
    assert path_of("a" * 2 * BLOCK + "c" * BLOCK)[:2] == first[:2]
    assert path_of("a" * 2 * BLOCK + "c" * BLOCK)[2] != first[2]
    # The same block behind another is another.
    assert not set(path_of("c" * BLOCK + "a" * BLOCK)) & set(first)


def test_a_conversation_that_goes_on_begins_with_the_path_of_what_it_was() -> None:
    begun = (("system", "s" * 2 * BLOCK), ("user", "u" * BLOCK))
    path = talk_path(*begun)
    assert len(path) == 3
    assert talk_path(*begun, ("assistant", "a" * BLOCK), ("user", "more"))[:3] == path
    assert talk_path(("system", "s" * 2 * BLOCK), ("user", "other" * BLOCK))[:2] == path[:2]
    assert talk_path(("user", "s" * 2 * BLOCK))[0] != path[0]


def test_tenants_and_models_share_no_path_and_another_queen_shares_none() -> None:
    text = "x" * BLOCK
    paths = {path_of(text), path_of(text, tenant="u"), path_of(text, model="n")}
    paths.add(PrefixPaths().path_of(GenerateRequest(prompt=text), tenant_id="t", model="m"))
    assert len(paths) == 4


def test_a_prompt_is_read_no_further_than_it_is_known() -> None:
    most = BLOCK * limits.PREFIX_BLOCKS_PER_PROMPT_MAX
    assert len(path_of("x" * 3 * most)) == limits.PREFIX_BLOCKS_PER_PROMPT_MAX
    long = talk_path(*[("user", "ü" * most)] * 3)
    assert len(long) == limits.PREFIX_BLOCKS_PER_PROMPT_MAX
    assert path_of("ü" * most) == path_of("ü" * (most // 2))


def test_a_worker_is_believed_to_have_the_extensions_that_are_words() -> None:
    said = ["lora", "", "a,b", "x" * (limits.ID_BYTES_MAX + 1), *map(str, range(99))]
    report = report_of(EngineStatus(worker_id="w", model="m", extensions=said), "p", "")
    assert "lora" in report.extensions
    assert not report.extensions & {"", "a,b", said[3]}
    assert len(report.extensions) == limits.EXTENSIONS_MAX
