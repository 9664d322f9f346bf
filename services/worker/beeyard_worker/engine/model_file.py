"""Looks at a model's file before llama.cpp does, so that a broken or too large one is a sentence and not a crash.

llama.cpp reports every load error alike, and ends the process when memory runs out.
"""

import pathlib
from collections.abc import Callable
from typing import Final

import psutil
from beeyard_core.refusal import Refusal
from beeyard_runtime.models.gguf_file import GgufFacts, ModelFileInvalid, read_gguf_facts

from beeyard_worker.engine.port import EngineFault

_BLOCK_BYTES: Final = 8 << 20
_GIB: Final = 1 << 30


def check_model_file(
    path: pathlib.Path,
    *,
    slots: int,
    context_tokens: int,
    memory_free_bytes: int | None,
    kv_tokens: int = 0,
) -> tuple[GgufFacts, int]:
    """Return the file's facts and the context that each slot gets.

    Args:
        path: The GGUF file.
        slots: Generations at once.
        context_tokens: Context that is wanted for each; 0: what the model was trained for. Never more than that.
        kv_tokens: KV memory that all slots share; 0: a context for each.
        memory_free_bytes: Memory that the model may take; None: unknown, so do not judge.

    Raises:
        EngineFault: MODEL_LOAD_FAILED, with what to do about it.
    """
    try:
        facts = read_gguf_facts(path)
    except ModelFileInvalid as error:
        raise EngineFault(Refusal.MODEL_LOAD_FAILED, str(error)) from error
    trained = facts.context_tokens or context_tokens
    context = min(context_tokens or trained, trained, kv_tokens or trained)
    if context <= 0:
        raise EngineFault(
            Refusal.MODEL_LOAD_FAILED,
            "the model file does not name its context: set context_tokens",
        )
    shared = kv_tokens if 0 < kv_tokens < slots * context else 0
    needed = facts.memory_bytes(slots=1 if shared else slots, context_tokens=shared or context)
    if memory_free_bytes is not None and needed > memory_free_bytes:
        raise EngineFault(
            Refusal.MODEL_LOAD_FAILED,
            f"the model needs about {needed / _GIB:.1f} GiB with {slots} slots of {context} tokens and "
            f"{memory_free_bytes / _GIB:.1f} GiB are free: lower slots or context_tokens, or free memory",
        )
    return facts, context


def free_memory_bytes() -> int:
    """Return the memory of this machine that is free for a model, in bytes."""
    return int(psutil.virtual_memory().available)


def warm_model_file(path: pathlib.Path, on_progress: Callable[[float], bool]) -> None:
    """Read the file once, so that it lies in the page cache when llama.cpp maps it.

    Loading blocks the whole interpreter (the library keeps the interpreter's lock), and waiting for a disk is the long
    part of it. Done here, in a thread, the process stays responsive and can tell how far it is.

    Args:
        path: The file.
        on_progress: Called with the part that was read, 0 to 1; returns False to stop early.
    """
    size = max(path.stat().st_size, 1)
    buffer = bytearray(_BLOCK_BYTES)
    read = 0
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            read += count
            if not on_progress(read / size):
                return
