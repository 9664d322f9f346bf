"""Reads what a GGUF file says of itself, and finds out whether the file is whole.

llama.cpp answers a broken file with one flat error, and a file that does not fit in memory with the end of the process.
So everybody who wants to load one looks here first: the worker before it starts the engine, the pool manager before it
starts the worker. Only the header is read (a few megabytes at most, through a memory map), never the weights.

Layout, all little-endian: magic `GGUF`, version, tensor count, key count, then key/value pairs, then one record for
each tensor (name, dimensions, type, offset), then padding to the alignment, then the weights.
"""

import contextlib
import dataclasses
import mmap
import pathlib
import struct
from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
ALIGNMENT_DEFAULT: Final = 32
# A header that claims more than this is a broken file, not a large model.
KEYS_MAX: Final = 4_096
TENSORS_MAX: Final = 65_536
STRING_BYTES_MAX: Final = 16 << 20
ARRAY_ITEMS_MAX: Final = 16 << 20

# GGUF value types: struct format by number; 8 is a string, 9 an array.
_SCALARS: Final = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_STRING: Final = 8
_ARRAY: Final = 9

# ggml tensor types: (values in a block, bytes of a block).
_BLOCKS: Final = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110),
    22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8),
    29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
}  # fmt: skip

# `general.file_type`: how most of the weights are stored.
_QUANTIZATIONS: Final = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S",
    12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K",
    19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL",
    26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16",
    36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4",
}  # fmt: skip

# Compute buffers and the tokenizer, beside weights and KV cache: measured 60 to 150 MiB for models up to 8B.
_MARGIN_BYTES: Final = 96 << 20

Scalar: TypeAlias = int | float | bool | str
_Value: TypeAlias = Scalar | tuple[Scalar | bytes, ...]


class ModelFileInvalid(Exception):
    """The file cannot be loaded; the message says why in one sentence, without its path."""


@dataclasses.dataclass(frozen=True, slots=True)
class GgufFacts:
    """What a whole GGUF file says of itself.

    Attributes:
        architecture: Such as `llama` or `gemma3`.
        name: The model's own name; may be empty.
        quantization: Such as `Q4_K_M`; empty if the file does not say.
        context_tokens: Longest context that the model was trained for; 0 if the file does not say.
        chat_template: Whether the file brings a chat template of its own.
        file_bytes: Size of the file.
        kv_bytes_per_token: Upper bound of the KV cache for one token at 16 bits a value; 0 if the model has no
            attention. Models with sliding windows need less.
    """

    architecture: str
    name: str
    quantization: str
    context_tokens: int
    chat_template: bool
    file_bytes: int
    kv_bytes_per_token: int

    def memory_bytes(self, *, slots: int, context_tokens: int) -> int:
        """Estimate the memory that loading needs: weights, KV cache of all slots and a margin, in bytes.

        Args:
            slots: Generations at once.
            context_tokens: Context of each slot.
        """
        return self.file_bytes + self.kv_bytes_per_token * slots * context_tokens + _MARGIN_BYTES


@dataclasses.dataclass(frozen=True, slots=True)
class GgufTokens:
    """The vocabulary of a GGUF file.

    Attributes:
        model: Kind of tokenizer: `llama` (SentencePiece), `gpt2` (byte-level BPE), others.
        texts: Bytes of each token as the file has them, by id.
        kinds: Token type of each, by id: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte.
    """

    model: str
    texts: tuple[bytes, ...]
    kinds: tuple[int, ...]


def read_gguf_facts(path: pathlib.Path) -> GgufFacts:
    """Return the facts of the file.

    Raises:
        ModelFileInvalid: It is not a GGUF file, is cut off, or cannot be read.
    """
    with _opened(path) as header:
        keys = header.read_keys(arrays=frozenset({"head_count_kv"}))
        header.check_tensors(int(_number(keys, "general.alignment", ALIGNMENT_DEFAULT)))
        return _facts(keys, header.size)


def read_gguf_tokens(path: pathlib.Path) -> GgufTokens:
    """Return the vocabulary of the file; takes about 0.3 s for 262 000 tokens, so call it off the event loop.

    Raises:
        ModelFileInvalid: As `read_gguf_facts`, or it has no vocabulary.
    """
    with _opened(path) as header:
        keys = header.read_keys(arrays=frozenset({"tokens", "token_type"}))
    texts = keys.get("tokenizer.ggml.tokens")
    kinds = keys.get("tokenizer.ggml.token_type")
    if not isinstance(texts, tuple) or not all(isinstance(text, bytes) for text in texts):
        raise ModelFileInvalid("the model file has no vocabulary")
    known = kinds if isinstance(kinds, tuple) and len(kinds) == len(texts) else (1,) * len(texts)
    return GgufTokens(
        str(keys.get("tokenizer.ggml.model", "")),
        tuple(text for text in texts if isinstance(text, bytes)),
        tuple(int(kind) for kind in known),
    )


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> "Iterator[_Header]":
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            yield _Header(content)
    except FileNotFoundError:
        raise ModelFileInvalid("the model file does not exist") from None
    except (OSError, ValueError) as error:  # ValueError: mmap of an empty file
        reason = getattr(error, "strerror", None) or "it is empty"
        raise ModelFileInvalid(f"the model file cannot be read: {reason}") from error
    except struct.error:
        raise ModelFileInvalid("the model file is cut off within its header") from None


class _Header:
    """A cursor over the mapped file; `struct.error` means that it ran over the end."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self.size = len(content)
        self._at = 0
        if content[:4] != MAGIC:
            raise ModelFileInvalid("the model file is not a GGUF file")
        self._at = 4
        version = self._take("<I")
        if version not in VERSIONS:
            raise ModelFileInvalid(f"the model file has GGUF version {version}; known are 2 and 3")
        self._tensors = self._counted("<Q", TENSORS_MAX, "tensors")
        self._keys = self._counted("<Q", KEYS_MAX, "keys")

    def read_keys(self, *, arrays: frozenset[str]) -> dict[str, _Value]:
        """Read all keys; of arrays only those whose last name is in `arrays`, the others are skipped."""
        found: dict[str, _Value] = {}
        for _ in range(self._keys):
            key = self._text().decode("utf-8", "replace")
            kind = self._take("<I")
            if kind == _ARRAY:
                items = self._array(keep=key.rpartition(".")[2] in arrays)
                if items is not None:
                    found[key] = items
            elif kind == _STRING:
                found[key] = self._text().decode("utf-8", "replace")
            else:
                found[key] = self._scalar(kind)
        return found

    def check_tensors(self, alignment: int) -> None:
        """Read the tensor records and make sure that every tensor ends within the file."""
        ends = 0
        for _ in range(self._tensors):
            self._text()
            values = 1
            for _ in range(self._counted("<I", 8, "dimensions")):
                values *= self._take("<Q")
            kind, offset = self._take("<I"), self._take("<Q")
            block_values, block_bytes = _BLOCKS.get(kind, (1, 0))
            ends = max(ends, offset + values // block_values * block_bytes)
        if alignment <= 0:
            raise ModelFileInvalid("the model file has a broken header")
        begin = -(-self._at // alignment) * alignment
        if begin + ends > self.size:
            raise ModelFileInvalid(
                f"the model file is cut off: it has {self.size} bytes and needs {begin + ends}; fetch it again"
            )

    def _take(self, form: str) -> int:
        (value,) = struct.unpack_from(form, self._content, self._at)
        self._at += struct.calcsize(form)
        return int(value)

    def _scalar(self, kind: int) -> Scalar:
        form = _SCALARS.get(kind)
        if form is None:
            raise ModelFileInvalid("the model file has a broken header")
        (value,) = struct.unpack_from(form, self._content, self._at)
        self._at += struct.calcsize(form)
        return value if isinstance(value, (int, float)) else int(value)

    def _counted(self, form: str, most: int, noun: str) -> int:
        count = self._take(form)
        if count > most:
            raise ModelFileInvalid(f"the model file has a broken header: {count} {noun}")
        return count

    def _text(self) -> bytes:
        size = self._counted("<Q", STRING_BYTES_MAX, "bytes in a string")
        text = self._content[self._at : self._at + size]
        if len(text) < size:
            raise ModelFileInvalid("the model file is cut off within its header")
        self._at += size
        return text

    def _array(self, *, keep: bool) -> tuple[Scalar | bytes, ...] | None:
        kind = self._take("<I")
        count = self._counted("<Q", ARRAY_ITEMS_MAX, "items in an array")
        if kind == _STRING:
            texts = [self._text() for _ in range(count)]
            return tuple(texts) if keep else None
        form = _SCALARS.get(kind)
        if form is None:  # also arrays of arrays, which no model uses
            raise ModelFileInvalid("the model file has a broken header")
        width = struct.calcsize(form)
        begin, self._at = self._at, self._at + width * count
        if self._at > self.size:
            raise ModelFileInvalid("the model file is cut off within its header")
        return struct.unpack_from(f"<{count}{form[1]}", self._content, begin) if keep else None


def _facts(keys: Mapping[str, _Value], size: int) -> GgufFacts:
    architecture = str(keys.get("general.architecture", ""))
    if not architecture:
        raise ModelFileInvalid("the model file does not name its architecture; it holds no model")
    return GgufFacts(
        architecture=architecture,
        name=str(keys.get("general.name", "")),
        quantization=_QUANTIZATIONS.get(int(_number(keys, "general.file_type", -1)), ""),
        context_tokens=int(_number(keys, f"{architecture}.context_length", 0)),
        chat_template="tokenizer.chat_template" in keys,
        file_bytes=size,
        kv_bytes_per_token=_kv_bytes(keys, architecture),
    )


def _kv_bytes(keys: Mapping[str, _Value], architecture: str) -> int:
    layers = int(_number(keys, f"{architecture}.block_count", 0))
    heads = int(_number(keys, f"{architecture}.attention.head_count", 0))
    if not layers or not heads:
        return 0
    width = int(_number(keys, f"{architecture}.embedding_length", 0)) // heads
    per_head = _number(keys, f"{architecture}.attention.key_length", width) + _number(
        keys, f"{architecture}.attention.value_length", width
    )
    shared = keys.get(f"{architecture}.attention.head_count_kv", heads)
    # A tuple has one count for each layer.
    total = sum(map(int, shared)) if isinstance(shared, tuple) else layers * int(shared)
    return int(total * per_head) * 2


def _number(keys: Mapping[str, _Value], key: str, default: float) -> float:
    value = keys.get(key, default)
    return value if isinstance(value, (int, float)) else default
