"""The models that this host can load without fetching anything.

The folder is looked at again every few seconds, so a file that is copied in appears by itself, and one that is still
being copied is listed with a fault until it is whole. Reading headers happens on a thread, and only for files whose
size or time changed. A broken file never hides the others, and no worker is ever started for it.
"""

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from beeyard_core import limits
from beeyard_runtime.clock import Clock
from beeyard_runtime.log import get_log
from beeyard_runtime.models.gguf_file import GgufFacts, ModelFileInvalid, read_gguf_facts
from beeyard_runtime.models.package_model import PackageModelMissing, resolve_package_model

from beeyard_pool_manager.model_source import (
    FileModel,
    HttpModel,
    ModelSource,
    PackageModel,
    SyntheticModel,
)

_log = get_log("catalogue")
_SUFFIX: Final = ".gguf"
# Large models come in parts; the engine is given the first and finds the others.
_PART: Final = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})")


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """One model.

    Attributes:
        model: The name that jobs use.
        engine: The engine that loads it.
        source: What the worker is given to load.
        size_bytes: Size of the weights; 0 if unknown.
        context_tokens: Longest context that it was trained for; 0 if unknown.
        required_bytes: Memory that a worker of it needs at this pool's settings; 0 if it needs none here.
        worker_context_tokens: Longest prompt plus answer that a worker takes at this pool's settings; 0: unknown.
        fault: Why it cannot be loaded; empty if it can.
        is_preparing: It will be loadable soon, and its facts are not known yet.
    """

    model: str
    engine: str
    source: str
    size_bytes: int = 0
    quantization: str = ""
    context_tokens: int = 0
    architecture: str = ""
    required_bytes: int = 0
    worker_context_tokens: int = 0
    fault: str = ""
    is_preparing: bool = False


class Catalogue:
    """The models of one host. `entries` and `find` answer from the last look.

    Args:
        models_dir: Folder of GGUF files; may be absent.
        models: Further models by name; they win over files of the same name.
        cache_dir: Where packaged models are joined.
        slots: Answers that each worker generates at once.
        context_tokens: Context of each answer, in tokens.
        on_change: Called when a look found something new.
        read_facts: Reads a GGUF header.
        resolve_package: Joins a packaged model and returns its file; may take seconds.
    """

    def __init__(
        self,
        *,
        models_dir: Path | None,
        models: Mapping[str, ModelSource],
        cache_dir: Path,
        slots: int,
        context_tokens: int,
        on_change: Callable[[], None] = lambda: None,
        read_facts: Callable[[Path], GgufFacts] = read_gguf_facts,
        resolve_package: Callable[[str, Path], Path] = resolve_package_model,
    ) -> None:
        self._models_dir = models_dir
        self._models = models
        self._cache_dir = cache_dir
        self._slots = slots
        self._context_tokens = context_tokens
        self._on_change = on_change
        self._read_facts = read_facts
        self._resolve_package = resolve_package
        self._facts: dict[Path, tuple[tuple[int, int, int], GgufFacts | str]] = {}
        self._prepared: dict[str, Path | str] = {}
        self._preparing: dict[str, asyncio.Task[None]] = {}
        self._entries: dict[str, CatalogueEntry] = {}

    def entries(self) -> list[CatalogueEntry]:
        """Return every model of the last look, by name."""
        return list(self._entries.values())

    def find(self, model: str) -> CatalogueEntry | None:
        """Return one model of the last look; None if there is no such model."""
        return self._entries.get(model)

    async def refresh(self) -> None:
        """Look again. Models out of packages begin to be prepared at the first look and appear at once."""
        for source in self._models.values():
            if isinstance(source, PackageModel):
                self._begin_preparing(source.source)
        found = await asyncio.to_thread(self._look, dict(self._prepared))
        if found != self._entries:
            self._entries = found
            self._on_change()

    async def run(self, clock: Clock) -> None:
        """Look again now and then, until cancelled."""
        while True:
            await clock.sleep_ms(limits.CATALOGUE_INTERVAL_MS)
            await self.refresh()

    async def close(self) -> None:
        """Wait for no preparation any more; one that runs on its thread ends by itself."""
        for task in self._preparing.values():
            task.cancel()
        await asyncio.gather(*self._preparing.values(), return_exceptions=True)

    def _begin_preparing(self, source: str) -> None:
        if source not in self._preparing:
            self._preparing[source] = asyncio.create_task(self._prepare(source))

    async def _prepare(self, source: str) -> None:
        _log.info("model_preparing", source=source)
        try:
            path = await asyncio.to_thread(self._resolve_package, source, self._cache_dir)
        except PackageModelMissing as error:
            _log.warning("model_not_prepared", source=source, error=str(error))
            self._prepared[source] = str(error)
        except OSError as error:
            _log.warning("model_not_prepared", source=source, error=str(error))
            self._prepared[source] = f"the cache folder cannot be written: {error.strerror}"
        else:
            _log.info("model_prepared", source=source)
            self._prepared[source] = path
        await self.refresh()

    def _look(self, prepared: Mapping[str, Path | str]) -> dict[str, CatalogueEntry]:
        """Build the whole catalogue; runs on a thread, and only there are `_facts` touched."""
        named = {name: self._entry(name, source, prepared) for name, source in self._models.items()}
        files = _model_files(self._models_dir) if self._models_dir else {}
        for name, paths in files.items():
            if name not in named:
                named[name] = self._file_entry(name, paths)
        kept = dict(sorted(named.items())[: limits.CATALOGUE_MODELS_MAX])
        if len(kept) < len(named):
            _log.warning("models_left_out", count=len(named) - len(kept))
        return {name: self._at_our_settings(entry) for name, entry in kept.items()}

    def _at_our_settings(self, entry: CatalogueEntry) -> CatalogueEntry:
        """Add what a worker of a model would be started with; unknown while the model's own facts are."""
        if entry.is_preparing or entry.fault:
            return entry
        longest = min(entry.context_tokens or self._context_tokens, self._context_tokens)
        return replace(entry, worker_context_tokens=longest)

    def _entry(
        self, name: str, source: ModelSource, prepared: Mapping[str, Path | str]
    ) -> CatalogueEntry:
        match source:
            case FileModel(path):
                return self._file_entry(name, _parts_of(path))
            case SyntheticModel(tokens_per_s):
                return CatalogueEntry(model=name, engine="synthetic", source=tokens_per_s)
            case HttpModel(url):
                return CatalogueEntry(model=name, engine="openai_http", source=url)
            case PackageModel(package):
                ready = prepared.get(package)
                if isinstance(ready, Path):
                    return self._file_entry(name, [ready])
                return CatalogueEntry(
                    model=name,
                    engine="llamacpp",
                    source=package,
                    fault=ready or "",
                    is_preparing=ready is None,
                )

    def _file_entry(self, name: str, paths: list[Path]) -> CatalogueEntry:
        facts: GgufFacts | None = None
        size_bytes, fault = 0, ""
        for path in paths:
            found = self._facts_of(path)
            if isinstance(found, str):
                fault = fault or found
            else:
                facts = facts or found
                size_bytes += found.file_bytes
        entry = CatalogueEntry(
            model=name,
            engine="llamacpp",
            source=str(paths[0].absolute()),
            size_bytes=size_bytes,
            fault=fault,
        )
        if facts is None or fault:
            return entry
        return self._with_facts(entry, facts)

    def _with_facts(self, entry: CatalogueEntry, facts: GgufFacts) -> CatalogueEntry:
        context_tokens = min(facts.context_tokens or self._context_tokens, self._context_tokens)
        # The first part's facts count its own bytes only; the other parts' weights come on top.
        others_bytes = entry.size_bytes - facts.file_bytes
        required = facts.memory_bytes(slots=self._slots, context_tokens=context_tokens)
        return CatalogueEntry(
            model=entry.model,
            engine=entry.engine,
            source=entry.source,
            size_bytes=entry.size_bytes,
            quantization=facts.quantization,
            context_tokens=min(facts.context_tokens, 2**31 - 1),
            architecture=facts.architecture,
            required_bytes=required + others_bytes,
        )

    def _facts_of(self, path: Path) -> GgufFacts | str:
        """Return the facts of a file, or its fault; the header is read anew only if the file changed."""
        try:
            found = path.stat()
        except OSError as error:
            return f"the model file cannot be read: {error.strerror}"
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        known = self._facts.get(path)
        if known is not None and known[0] == stamp:
            return known[1]
        facts: GgufFacts | str
        try:
            facts = self._read_facts(path)
        except ModelFileInvalid as error:
            facts = str(error)
            _log.warning("model_file_invalid", file=path.name, error=facts)
        self._facts[path] = (stamp, facts)
        return facts


def _model_files(folder: Path) -> dict[str, list[Path]]:
    """Return the GGUF files of a folder and its subfolders, by model name; the parts of one model together."""
    found: dict[str, list[Path]] = {}
    for path in _bounded_walk(folder):
        part = _PART.fullmatch(path.stem)
        if part is None:
            found[_name_of(folder, path, path.stem)] = [path]
        elif int(part["number"]) == 1:
            found[_name_of(folder, path, part["stem"])] = _parts_of(path)
    return found


def _bounded_walk(folder: Path) -> Iterable[Path]:
    count = 0
    for path in sorted(folder.rglob(f"*{_SUFFIX}")) if folder.is_dir() else ():
        if path.is_file():
            count += 1
            if count > limits.CATALOGUE_MODELS_MAX:
                return
            yield path


def _name_of(folder: Path, path: Path, stem: str) -> str:
    return path.with_name(stem).relative_to(folder).as_posix()


def _parts_of(path: Path) -> list[Path]:
    """Return the files of one model: the path itself, or all parts if it is the first of several."""
    part = _PART.fullmatch(path.stem)
    if part is None:
        return [path]
    stem, count = part["stem"], int(part["count"])
    return [
        path.with_name(f"{stem}-{number:05}-of-{count:05}{_SUFFIX}")
        for number in range(1, min(count, limits.CATALOGUE_MODELS_MAX) + 1)
    ]
