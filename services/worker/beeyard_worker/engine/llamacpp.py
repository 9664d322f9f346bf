"""The embedded engine: llama.cpp in this process, through `xllamacpp`.

What was measured, and what follows from it:

- Same seed, one slot: the same text every time, as long as no prefix cache is used. With the cache the prompt is
  computed in other batches, which rounds differently: 1 of 20 continuations changed. So with one slot the cache is off
  and the engine is deterministic; with more slots, batching changes rounding anyway, and the cache is on.
- A continuation (prompt plus the ids of the earlier tokens) goes on from exactly the same tokens, but its prompt was
  computed in one batch instead of token by token, so it may choose differently from the uninterrupted run. Above
  temperature 0 it draws new numbers, too: llama.cpp cannot skip those that were drawn already.
- Two busy threads on two contended cores are 15 times slower than one (they spin): half of the cores is the default.
- Loading keeps the interpreter's lock. The file is read into the page cache first, which is the slow part.
- The library always opens an HTTP server. It listens on a loopback port behind a key drawn at each start; only the
  tokenizer and the chat template are asked through it.
"""

import asyncio
import concurrent.futures
import importlib
import pathlib
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, Final, Literal

import httpx
from beeyard_core.limits import RPC_DEADLINE_MS
from beeyard_core.refusal import Refusal
from beeyard_runtime.models.gguf_file import GgufFacts, read_gguf_tokens

from beeyard_worker.engine.chat_template import PLAIN_STOPS, render_plain
from beeyard_worker.engine.llamacpp_answer import LlamaAnswer
from beeyard_worker.engine.llamacpp_options import (
    HTTP_CONNECTIONS,
    LlamaOptions,
    completion_body,
    server_params,
)
from beeyard_worker.engine.llamacpp_pace import LlamaPace
from beeyard_worker.engine.llamacpp_run import CompletionRun, CompletionServer
from beeyard_worker.engine.model_file import check_model_file, free_memory_bytes, warm_model_file
from beeyard_worker.engine.port import EngineFacts, EngineFault, Finish, Generation, Token
from beeyard_worker.engine.vocabulary import Vocabulary

# The rest is llama.cpp's own loading, which tells nothing.
_WARM_SHARE: Final = 0.9


class LlamaCppEngine:
    """Generates with one GGUF model on this machine."""

    def __init__(self, path: pathlib.Path, options: LlamaOptions) -> None:
        """Remember what to load."""
        self._path = path
        self._options = options
        self._loaded: _Loaded | None = None
        self._runs: set[CompletionRun] = set()
        self._pace = LlamaPace(slots=options.slots, target_ms=options.step_target_ms)
        self._closed = False

    async def load(self, on_progress: Callable[[float], None]) -> EngineFacts:
        """Check the file, read it, load it."""
        options = self._options
        library = _import_library()
        facts, context = await asyncio.to_thread(
            check_model_file,
            self._path,
            slots=options.slots,
            context_tokens=options.context_tokens,
            kv_tokens=options.kv_tokens,
            memory_free_bytes=free_memory_bytes() if options.gpu_layers == 0 else None,
        )
        await self._warm(on_progress)
        if not self._closed:
            self._loaded = await self._start(library, facts, context)
        if self._closed:
            await self.close()
            raise _closed()
        on_progress(1.0)
        return EngineFacts(
            engine="llamacpp",
            version=str(library.__version__),
            deterministic=options.slots == 1 and not options.uses_prefix_cache,
            token_ids=True,
            context_tokens=context,
            quantization=facts.quantization,
            slots=options.slots,
            caches_prefixes=options.uses_prefix_cache,
        )

    async def generate(
        self, generation: Generation
    ) -> AsyncGenerator[Sequence[Token] | Finish, None]:
        """Yield the tokens of each step of llama.cpp, then how it ended."""
        loaded = self._require()
        prompt, stops = await loaded.render(generation)
        vocabulary = await self._vocabulary() if generation.resume_ids else None
        answer = LlamaAnswer(generation, stops, vocabulary)
        if answer.ended_before or generation.max_tokens <= generation.resume_count:
            reason: Literal["stop", "length"] = "stop" if answer.ended_before else "length"
            yield _nothing_left(generation, await loaded.count(prompt), reason)
            return
        if self._require() is not loaded:
            raise _closed()
        body = completion_body(generation, prompt, reuse_prefix=self._options.uses_prefix_cache)
        run = CompletionRun()
        self._runs.add(run)
        self._pace.begin(run)
        try:
            run.start(loaded.server, body, loaded.threads)
            async for chunks in run.batches():
                step: list[Token] = []
                for chunk in chunks:
                    self._pace.note(run, chunk)
                    if answer.needs_vocabulary(chunk):
                        answer.vocabulary = await self._vocabulary()
                    step += answer.take(chunk)
                    if answer.finish is not None:
                        break
                if step:
                    yield step
                if answer.finish is not None:
                    yield answer.finish
                    return
            raise _closed()
        finally:
            await run.stop()
            self._runs.discard(run)
            self._pace.end(run)

    def watch_slots(self, on_change: Callable[[int], None]) -> None:
        """Call `on_change` with what keeps llama.cpp's steps to their target; never, if there is none."""
        self._pace.watch_slots(on_change)

    async def count_prompt_tokens(self, generation: Generation) -> int:
        """Return the exact number, as llama.cpp's tokenizer counts."""
        loaded = self._require()
        prompt, _ = await loaded.render(generation)
        return await loaded.count(prompt)

    async def close(self) -> None:
        """Stop what runs and free the model."""
        self._closed = True
        loaded, self._loaded = self._loaded, None
        # Before the library's object goes: its end waits for the running completions, which wait for the interpreter.
        await asyncio.gather(*(run.stop() for run in tuple(self._runs)))
        if loaded is not None:
            await loaded.close()

    async def _start(self, library: ModuleType, facts: GgufFacts, context: int) -> "_Loaded":
        key = secrets.token_urlsafe()
        options = self._options
        params = server_params(library, self._path, options, context_tokens=context, api_key=key)
        try:
            server = await asyncio.to_thread(library.Server, params)
        except RuntimeError as error:
            raise EngineFault(
                Refusal.MODEL_LOAD_FAILED,
                f"llama.cpp cannot load this {facts.architecture} model: it does not know it, "
                "or its memory does not suffice",
            ) from error
        return _Loaded(server, key, options.slots, own_template=facts.chat_template)

    def _require(self) -> "_Loaded":
        if self._loaded is None:
            raise EngineFault(Refusal.WORKER_ERROR, "the model is not loaded")
        return self._loaded

    async def _vocabulary(self) -> Vocabulary:
        loaded = self._require()
        if loaded.vocabulary is None:
            loaded.vocabulary = Vocabulary(await asyncio.to_thread(read_gguf_tokens, self._path))
        return loaded.vocabulary

    async def _warm(self, on_progress: Callable[[float], None]) -> None:
        loop = asyncio.get_running_loop()

        def tell(part: float) -> bool:
            loop.call_soon_threadsafe(on_progress, part * _WARM_SHARE)
            return not self._closed

        await asyncio.to_thread(warm_model_file, self._path, tell)


class _Loaded:
    """What exists only while the model is loaded."""

    def __init__(
        self, server: CompletionServer, key: str, slots: int, *, own_template: bool
    ) -> None:
        self.server = server
        self.threads = concurrent.futures.ThreadPoolExecutor(slots, "llamacpp")
        self.vocabulary: Vocabulary | None = None
        self._own_template = own_template
        self._http = httpx.AsyncClient(
            base_url=server.listening_address,
            headers={"Authorization": f"Bearer {key}"},
            timeout=RPC_DEADLINE_MS / 1_000,
            limits=httpx.Limits(max_connections=HTTP_CONNECTIONS),
            trust_env=False,
        )

    async def render(self, generation: Generation) -> tuple[str, tuple[str, ...]]:
        """Return the prompt's text, and the stop strings that go with its template."""
        if not generation.messages:
            return generation.prompt, ()
        if not self._own_template:
            return render_plain(generation.messages), PLAIN_STOPS
        turns = [{"role": role, "content": content} for role, content in generation.messages]
        return str((await self._ask("/apply-template", {"messages": turns}))["prompt"]), ()

    async def count(self, prompt: str) -> int:
        """Return how many tokens the prompt has."""
        body = {"content": prompt, "add_special": True, "parse_special": True}
        return len((await self._ask("/tokenize", body))["tokens"])

    async def close(self) -> None:
        """Free the model."""
        await self._http.aclose()
        await asyncio.to_thread(self.threads.shutdown)
        del self.server  # its destructor joins the library's threads

    async def _ask(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            answer = await self._http.post(path, json=body)
            answer.raise_for_status()
            return dict(answer.json())
        except httpx.HTTPStatusError as error:
            raise EngineFault(
                Refusal.INVALID_REQUEST, "the model's chat template refuses this conversation"
            ) from error
        except (httpx.HTTPError, ValueError, RuntimeError) as error:  # the last: closed meanwhile
            raise EngineFault(Refusal.WORKER_ERROR, "llama.cpp does not answer") from error


def _nothing_left(
    generation: Generation, prompt_tokens: int, reason: Literal["stop", "length"]
) -> Finish:
    return Finish(
        reason=reason,
        prompt_tokens=prompt_tokens,
        completion_tokens=generation.resume_count,
        cached_prompt_tokens=0,
        prefill_ms=0.0,
        decode_ms=0.0,
    )


def _closed() -> EngineFault:
    return EngineFault(Refusal.WORKER_RESET, "the engine was closed")


def _import_library() -> ModuleType:
    # Imported at load, since it is an optional part and brings a large library into the process.
    try:
        return importlib.import_module("xllamacpp")
    except ImportError as error:
        raise EngineFault(
            Refusal.MODEL_LOAD_FAILED,
            "the embedded engine is not installed: pip install 'beeyard[llamacpp]'",
        ) from error
