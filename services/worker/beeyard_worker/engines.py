"""The engine that the settings name, made when it is loaded.

Making one may join a packaged model on disk, which takes a second, so it waits until the server is up
and happens off the event loop; what goes wrong then is a failed load like any other.
"""

import asyncio
import shlex
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path

from beeyard_core.refusal import Refusal
from beeyard_runtime.clock import Clock

from beeyard_worker.config import WorkerSettings
from beeyard_worker.engine.port import Engine, EngineFacts, EngineFault, Finish, Generation, Token


class LateEngine:
    """An engine that exists only once it is loaded."""

    def __init__(self, build: Callable[[], Engine]) -> None:
        """Call `build` in a thread when loading."""
        self._build = build
        self._engine: Engine | None = None
        self._on_slots: Callable[[int], None] = lambda _count: None

    async def load(self, on_progress: Callable[[float], None]) -> EngineFacts:
        """Make the engine and load it; as `Engine.load`."""
        self._engine = await asyncio.to_thread(self._build)
        self._engine.watch_slots(self._on_slots)
        return await self._engine.load(on_progress)

    def generate(self, generation: Generation) -> AsyncGenerator[Sequence[Token] | Finish, None]:
        """Generate; as `Engine.generate`."""
        return self._made().generate(generation)

    def watch_slots(self, on_change: Callable[[int], None]) -> None:
        """Watch; as `Engine.watch_slots`. Before `load`, since there is no engine before."""
        self._on_slots = on_change

    async def count_prompt_tokens(self, generation: Generation) -> int:
        """Count; as `Engine.count_prompt_tokens`."""
        return await self._made().count_prompt_tokens(generation)

    async def close(self) -> None:
        """Free the model, if there is one."""
        if self._engine is not None:
            await self._engine.close()

    def _made(self) -> Engine:
        if self._engine is None:
            raise EngineFault(Refusal.WORKER_ERROR, "the engine is not loaded")
        return self._engine


def engine_from(settings: WorkerSettings, clock: Clock) -> LateEngine:
    """Return the engine that the settings name."""

    def build() -> Engine:
        # Imported late, too: the engines' libraries take longer to import than all the rest.
        from beeyard_worker.engine.registry import (  # noqa: PLC0415 - see above
            EngineSettings,
            build_engine,
        )

        chosen = EngineSettings(
            engine=settings.engine,
            source=settings.model_source,
            step_tokens=settings.step_tokens,
            device=settings.device,
            slots=settings.slots,
            kv_tokens=settings.kv_tokens,
            step_target_ms=settings.step_target_ms,
            prefill_tokens_max=settings.prefill_tokens_max,
            context_tokens=settings.context_tokens,
            threads=settings.threads,
            reuse_prefix={"auto": None, "on": True, "off": False}[settings.prefix_cache],
            package_cache=settings.package_cache or Path.home() / ".cache" / "beeyard" / "models",
            api_key=settings.api_key.get_secret_value(),
            strict=settings.upstream_strict,
            command=tuple(shlex.split(settings.upstream_command)),
        )
        return build_engine(chosen, clock)

    return LateEngine(build)
