"""The tiny model of `scripts/tiny_gguf.py`, written once for each test process and never committed."""

import atexit
import functools
import pathlib
import shutil
import tempfile

from scripts.tiny_gguf import write_tiny_gguf


@functools.cache
def _folder() -> pathlib.Path:
    folder = pathlib.Path(tempfile.mkdtemp(prefix="beeyard-tiny-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def tiny_gguf(
    *, seed: int = 0, context_tokens: int = 2048, chat_template: str = ""
) -> pathlib.Path:
    """Return the path of a tiny model that loads in llama.cpp in some milliseconds and babbles."""
    name = f"tiny-{seed}-{context_tokens}-{len(chat_template)}.gguf"
    return write_tiny_gguf(
        _folder() / name, seed=seed, context_tokens=context_tokens, chat_template=chat_template
    )
