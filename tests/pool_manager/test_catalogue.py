"""The models of a host: files that come and go, files that are broken, and models that are no files."""

import asyncio
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from beeyard_pool_manager.catalogue import Catalogue
from beeyard_pool_manager.model_source import (
    FileModel,
    HttpModel,
    ModelSource,
    ModelSourceInvalid,
    PackageModel,
    SyntheticModel,
    parse_model,
)
from beeyard_runtime.models.gguf_file import GgufFacts, ModelFileInvalid
from beeyard_runtime.models.package_model import PackageModelMissing

from scripts.tiny_gguf import write_tiny_gguf

SLOTS, CONTEXT_TOKENS = 4, 1_000


def catalogue_of(
    folder: Path | None = None, models: Mapping[str, ModelSource] | None = None, **ports: object
) -> Catalogue:
    return Catalogue(
        models_dir=folder,
        models=models or {},
        cache_dir=Path("unused"),
        slots=SLOTS,
        context_tokens=CONTEXT_TOKENS,
        **ports,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("text", "name", "source"),
    [
        ("tiny=models/a=b.gguf", "tiny", FileModel(Path("models/a=b.gguf"))),
        ("demo=package:gemma3-270m", "demo", PackageModel("package:gemma3-270m")),
        ("org/syn:1=synthetic:200", "org/syn:1", SyntheticModel("200")),
        ("slow=synthetic:200,load=2.5", "slow", SyntheticModel("200,load=2.5")),
        ("far=http://h:8000/v1#llama", "far", HttpModel("http://h:8000/v1#llama")),
    ],
)
def test_a_model_is_named_and_told_from_its_source(
    text: str, name: str, source: ModelSource
) -> None:
    assert parse_model(text) == (name, source)


@pytest.mark.parametrize(
    "text",
    [
        "tiny",
        "=x",
        "x=",
        "x=synthetic:fast",
        "x=synthetic:-1",
        "x=synthetic:1,load=never",
        "x=synthetic:1,load=-1",
        "x=synthetic:1,load=nan",
        "x=synthetic:nan",
        "x=http://h:1/v1",
        "x=http://#m",
        "x=http://h:99999/v1#m",
        "x\ny=a.gguf",
        "x" * 200 + "=a.gguf",
    ],
)
def test_a_model_that_cannot_be_understood_is_refused(text: str) -> None:
    with pytest.raises(ModelSourceInvalid):
        parse_model(text)


async def test_bad_files_are_listed_with_a_fault_and_hide_no_good_one(tmp_path: Path) -> None:
    good = write_tiny_gguf(tmp_path / "good.gguf")
    whole = good.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut-header.gguf").write_bytes(whole[:40])
    (tmp_path / "text.gguf").write_text("not a model")
    (tmp_path / "empty.gguf").touch()
    (tmp_path / "notes.txt").write_text("no model at all")
    (tmp_path / "folder.gguf").mkdir()
    catalogue = catalogue_of(tmp_path)
    await catalogue.refresh()
    entries = {each.model: each for each in catalogue.entries()}
    assert set(entries) == {"good", "cut", "cut-header", "text", "empty"}
    assert all(each.fault for name, each in entries.items() if name != "good")
    assert not any(str(tmp_path) in each.fault for each in entries.values())
    found = entries["good"]
    assert (found.fault, found.engine) == ("", "llamacpp")
    assert found.size_bytes == len(whole)
    assert found.architecture
    assert found.source == str(good)


async def test_the_memory_that_a_worker_needs_grows_with_its_slots(tmp_path: Path) -> None:
    facts = GgufFacts("llama", "", "Q4_K_M", 500, False, 10_000, 7)
    (tmp_path / "m.gguf").touch()
    catalogue = catalogue_of(tmp_path, read_facts=lambda _: facts)
    await catalogue.refresh()
    (entry,) = catalogue.entries()
    # The model's own context is the shorter one here.
    assert entry.required_bytes == facts.memory_bytes(slots=SLOTS, context_tokens=500)
    assert entry.worker_context_tokens == 500 < CONTEXT_TOKENS


async def test_a_file_that_appears_and_one_that_gets_whole_are_found(tmp_path: Path) -> None:
    changes: list[int] = []
    catalogue = catalogue_of(tmp_path, on_change=lambda: changes.append(1))
    await catalogue.refresh()
    assert (catalogue.entries(), changes) == ([], [])
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF")
    await catalogue.refresh()
    assert catalogue.entries()[0].fault
    write_tiny_gguf(path)
    await catalogue.refresh()
    await catalogue.refresh()
    assert not catalogue.entries()[0].fault
    assert len(changes) == 2


async def test_a_header_is_read_only_once_while_the_file_stays_the_same(tmp_path: Path) -> None:
    reads: list[Path] = []

    def read(path: Path) -> GgufFacts:
        reads.append(path)
        raise ModelFileInvalid("broken")

    (tmp_path / "m.gguf").touch()
    catalogue = catalogue_of(tmp_path, read_facts=read)
    await catalogue.refresh()
    await catalogue.refresh()
    assert len(reads) == 1


async def test_a_model_in_parts_is_one_model_and_needs_all_of_them(tmp_path: Path) -> None:
    facts = GgufFacts("llama", "", "", 0, False, 100, 0)
    (tmp_path / "big-00001-of-00002.gguf").touch()
    catalogue = catalogue_of(tmp_path, read_facts=lambda _: facts)
    await catalogue.refresh()
    (entry,) = catalogue.entries()
    assert entry.model == "big"
    assert entry.fault
    (tmp_path / "big-00002-of-00002.gguf").touch()
    await catalogue.refresh()
    (entry,) = catalogue.entries()
    assert (entry.fault, entry.size_bytes) == ("", 200)
    assert entry.source.endswith("big-00001-of-00002.gguf")


async def test_models_that_are_no_files_need_no_memory_here() -> None:
    models: dict[str, ModelSource] = {
        "syn": SyntheticModel("200"),
        "far": HttpModel("http://h/v1#m"),
    }
    catalogue = catalogue_of(None, models)
    await catalogue.refresh()
    found = {each.model: (each.engine, each.source) for each in catalogue.entries()}
    assert found == {"syn": ("synthetic", "200"), "far": ("openai_http", "http://h/v1#m")}
    assert all(each.required_bytes == 0 for each in catalogue.entries())


async def test_a_packaged_model_appears_at_once_and_is_ready_later(tmp_path: Path) -> None:
    release = threading.Event()
    ready = asyncio.Event()

    def resolve(source: str, cache: Path) -> Path:
        release.wait(20)
        return write_tiny_gguf(tmp_path / "joined.gguf")

    def note_change() -> None:
        entry = catalogue.find("demo")
        if entry is not None and not entry.is_preparing:
            ready.set()

    models = {"demo": PackageModel("package:x")}
    catalogue = catalogue_of(None, models, resolve_package=resolve, on_change=note_change)
    await catalogue.refresh()
    entry = catalogue.find("demo")
    assert entry is not None
    assert (entry.is_preparing, entry.fault) == (True, "")
    release.set()
    await asyncio.wait_for(ready.wait(), 20)
    entry = catalogue.find("demo")
    assert entry is not None
    assert entry.source == str(tmp_path / "joined.gguf")
    assert entry.required_bytes > entry.size_bytes > 0
    await catalogue.close()


async def test_a_packaged_model_that_is_not_installed_says_what_to_do() -> None:
    told = asyncio.Event()

    def resolve(source: str, cache: Path) -> Path:
        raise PackageModelMissing("pip install it")

    def note_change() -> None:
        if catalogue.entries()[0].fault:
            told.set()

    models = {"demo": PackageModel("package:x")}
    catalogue = catalogue_of(None, models, resolve_package=resolve, on_change=note_change)
    await catalogue.refresh()
    await asyncio.wait_for(told.wait(), 20)
    assert catalogue.entries()[0].fault == "pip install it"
    await catalogue.close()
