"""GGUF headers, and models that come as packages."""

import hashlib
import pathlib
from types import ModuleType

import pytest
from beeyard_runtime.models.gguf_file import ModelFileInvalid, read_gguf_facts, read_gguf_tokens
from beeyard_runtime.models.package_model import PackageModelMissing, resolve_package_model

from tests.support.tiny_gguf import tiny_gguf

CONTENT = b"a model in two parts"
SOURCE = "package:gemma3-270m"


class Package(ModuleType):
    """A model package as the real one behaves; counts how often it was joined."""

    EXPECTED_SHA256 = hashlib.sha256(CONTENT).hexdigest()

    def __init__(self, content: bytes = CONTENT) -> None:
        super().__init__("package")
        self.content = content
        self.joined = 0

    def assemble(self, path: pathlib.Path, overwrite: bool = False) -> pathlib.Path:
        self.joined += 1
        path.write_bytes(self.content)
        if hashlib.sha256(self.content).hexdigest() != self.EXPECTED_SHA256:
            raise ValueError(path)
        return path


def test_facts_are_read_from_the_header() -> None:
    facts = read_gguf_facts(tiny_gguf())
    assert (facts.architecture, facts.quantization, facts.context_tokens) == ("llama", "F16", 2048)
    assert not facts.chat_template
    assert facts.kv_bytes_per_token == 2 * 2 * 128 * 2  # layers, keys and values, width, bytes
    more = facts.memory_bytes(slots=2, context_tokens=100)
    assert more - facts.memory_bytes(slots=1, context_tokens=100) == 100 * facts.kv_bytes_per_token


def test_the_same_seed_writes_the_same_model() -> None:
    assert tiny_gguf().read_bytes() != tiny_gguf(seed=1).read_bytes()
    assert tiny_gguf().stat().st_size < 2 << 20


def test_every_cut_is_noticed(tmp_path: pathlib.Path) -> None:
    whole = tiny_gguf().read_bytes()
    cut = tmp_path / "cut.gguf"
    for size in (*range(0, 3_000, 97), len(whole) // 2, len(whole) - 1):
        cut.write_bytes(whole[:size])
        with pytest.raises(ModelFileInvalid):
            read_gguf_facts(cut)


def test_a_header_that_claims_nonsense_is_refused(tmp_path: pathlib.Path) -> None:
    whole = tiny_gguf().read_bytes()
    path = tmp_path / "odd.gguf"
    for at in (4, 8, 16, 24):  # version, tensors, keys, length of the first key
        path.write_bytes(whole[:at] + b"\xff" * 7 + whole[at + 7 :])
        with pytest.raises(ModelFileInvalid):
            read_gguf_facts(path)


def test_the_vocabulary_is_read() -> None:
    tokens = read_gguf_tokens(tiny_gguf())
    assert tokens.model == "llama"
    assert tokens.texts[:4] == (b"<unk>", b"<s>", b"</s>", b"<0x00>")
    assert set(tokens.kinds) == {1, 2, 3, 6}


def test_a_package_is_joined_once(tmp_path: pathlib.Path) -> None:
    package = Package()
    path = resolve_package_model(SOURCE, tmp_path / "cache", load=lambda _: package)
    assert path.read_bytes() == CONTENT
    assert resolve_package_model(SOURCE, tmp_path / "cache", load=lambda _: package) == path
    assert package.joined == 1
    assert not list((tmp_path / "cache").glob("*.part"))


def test_a_file_that_was_changed_is_joined_again(tmp_path: pathlib.Path) -> None:
    package = Package()
    path = resolve_package_model(SOURCE, tmp_path, load=lambda _: package)
    path.write_bytes(b"something else")
    assert resolve_package_model(SOURCE, tmp_path, load=lambda _: package).read_bytes() == CONTENT
    assert package.joined == 2


def test_damaged_parts_leave_no_file(tmp_path: pathlib.Path) -> None:
    with pytest.raises(PackageModelMissing, match="damaged"):
        resolve_package_model(SOURCE, tmp_path, load=lambda _: Package(b"damaged"))
    assert not list(tmp_path.glob("*.gguf"))


def test_an_absent_package_says_what_to_install(tmp_path: pathlib.Path) -> None:
    def absent(name: str) -> ModuleType:
        raise ModuleNotFoundError(name)

    with pytest.raises(PackageModelMissing, match=r"pip install 'beeyard\[demo\]'"):
        resolve_package_model(SOURCE, tmp_path, load=absent)
    with pytest.raises(PackageModelMissing, match="gemma3-270m"):
        resolve_package_model("package:other", tmp_path, load=absent)
