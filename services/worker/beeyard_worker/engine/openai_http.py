"""Any server that speaks OpenAI's protocol, as an engine: vLLM, llama-server, SGLang, Ollama and others.

The server may run already, anywhere, or be started and supervised from here. Token ids are not relied on, so an answer
is continued by its text: appended to the prompt, or as the beginning of the assistant's message. That joins the text
exactly, but the model may read it in other tokens than it wrote.
"""

import dataclasses
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final

import httpx
from beeyard_core.limits import (
    RPC_DEADLINE_MS,
    UPSTREAM_CONNECT_TIMEOUT_MS,
    UPSTREAM_PROBE_INTERVAL_MS,
    UPSTREAM_READ_TIMEOUT_MS,
    UPSTREAM_START_TIMEOUT_MS,
)
from beeyard_core.refusal import Refusal
from beeyard_runtime.clock import Clock

from beeyard_worker.engine.openai_stream import EventLines, UpstreamAnswer, upstream_fault
from beeyard_worker.engine.port import EngineFacts, EngineFault, Finish, Generation, Token
from beeyard_worker.engine.stop_strings import StopScanner
from beeyard_worker.engine.upstream_process import UpstreamProcess, free_port

_CONTEXT_TOKENS_DEFAULT: Final = 4_096
_BYTES_PER_TOKEN: Final = 4


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamOptions:
    """What an operator may choose.

    Attributes:
        slots: Answers that are asked for at once.
        context_tokens: Longest prompt plus answer; 0: as the server tells, else 4096.
        api_key: Sent as a bearer token; empty: none.
        extensions: Send `top_k` and what continues an assistant's message, which OpenAI's own servers refuse.
        command: Starts the server; `{port}` in it, and in the source, stands for a free port. Empty: it runs already.
    """

    slots: int = 4
    context_tokens: int = 0
    api_key: str = dataclasses.field(default="", repr=False)
    extensions: bool = True
    command: tuple[str, ...] = ()


class OpenAIHttpEngine:
    """Generates on an upstream server."""

    def __init__(self, source: str, clock: Clock, options: UpstreamOptions) -> None:
        """Remember where it is.

        Args:
            source: `http://host:port/v1#model`; without `#model` the first one that the server lists.
            clock: Measures phases and paces the probes.
            options: The operator's choices.
        """
        self._url, _, self._model = source.partition("#")
        self._clock = clock
        self._options = options
        self._http: httpx.AsyncClient | None = None
        self._process: UpstreamProcess | None = None

    async def load(self, on_progress: Callable[[float], None]) -> EngineFacts:
        """Start the server if that is our part, and wait until it lists its models."""
        url = self._url
        if self._options.command:
            port = str(free_port())
            url = url.replace("{port}", port)
            self._process = await UpstreamProcess.start(
                [part.replace("{port}", port) for part in self._options.command]
            )
        key = self._options.api_key
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(
                UPSTREAM_READ_TIMEOUT_MS / 1_000, connect=UPSTREAM_CONNECT_TIMEOUT_MS / 1_000
            ),
            limits=httpx.Limits(max_connections=self._options.slots + 1),
            trust_env=False,
        )
        try:
            listed = await self._wait_for_models()
            model = self._chosen(listed)
        except BaseException:
            await self.close()
            raise
        on_progress(1.0)
        return EngineFacts(
            engine="openai_http",
            version="",
            deterministic=False,
            token_ids=False,
            context_tokens=self._options.context_tokens
            or int(model.get("max_model_len") or _CONTEXT_TOKENS_DEFAULT),
            quantization="",
            slots=self._options.slots,
            # Such servers keep prefixes by default, and tell nowhere if they do not: the queen learns it.
            caches_prefixes=True,
        )

    async def generate(
        self, generation: Generation
    ) -> AsyncGenerator[Sequence[Token] | Finish, None]:
        """Yield the tokens of each piece of the stream, then how it ended."""
        scanner = StopScanner(generation.stop)
        answer = UpstreamAnswer()
        begun = first = last = self._clock.now().mono_ms
        sent = 0
        # `aclosing`: leaving the loop closes the connection, and that is the cancel.
        async with aclosing(self._stream(generation, answer)) as stream:
            async for made in stream:
                last = self._clock.now().mono_ms
                first = first if sent else last
                safe = scanner.feed(made)
                sent += len(safe)
                if safe:
                    yield safe
                if scanner.matched:
                    break
        if rest := scanner.flush():
            sent += len(rest)
            yield rest
        yield Finish(
            reason="stop" if scanner.matched else answer.reason or "length",
            prompt_tokens=self._prompt_tokens(generation, answer),
            completion_tokens=generation.resume_count + sent,
            cached_prompt_tokens=answer.cached_tokens,
            prefill_ms=first - begun,
            decode_ms=last - first,
        )

    def watch_slots(self, on_change: Callable[[int], None]) -> None:
        """Never call: the number of slots is fixed."""

    async def count_prompt_tokens(self, generation: Generation) -> int:
        """Return an estimate: a quarter of the bytes. The protocol has no way to ask."""
        self._require()
        return _estimate(generation)

    async def close(self) -> None:
        """Close the connections, and stop the server if we started it."""
        http, self._http = self._http, None
        process, self._process = self._process, None
        if http is not None:
            await http.aclose()
        if process is not None:
            await process.stop()

    def _require(self) -> httpx.AsyncClient:
        if self._http is None:
            raise EngineFault(Refusal.WORKER_ERROR, "the upstream server is not connected")
        return self._http

    async def _stream(
        self, generation: Generation, answer: UpstreamAnswer
    ) -> AsyncGenerator[list[Token], None]:
        if generation.max_tokens <= generation.resume_count:
            return
        path, body = _request(generation, self._model, extensions=self._options.extensions)
        lines = EventLines()
        try:
            async with self._require().stream("POST", path, json=body) as response:
                if response.is_error:
                    raise upstream_fault(
                        response.status_code, (await response.aread()).decode("utf-8", "replace")
                    )
                async for received in response.aiter_bytes():
                    made = [token for event in lines.feed(received) for token in answer.take(event)]
                    if made:
                        yield made
                    if lines.done:
                        break
        except httpx.HTTPError as error:
            raise self._broken(error) from error
        if answer.reason is None:
            raise EngineFault(Refusal.STREAM_READ_ERROR, "the upstream's answer ended too early")
        if missing := answer.missing():
            yield missing

    def _broken(self, error: httpx.HTTPError) -> EngineFault:
        if self._process is not None and self._process.exit_code is not None:
            return EngineFault(
                Refusal.WORKER_RESET,
                f"the upstream server has exited with code {self._process.exit_code}",
            )
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)):
            return EngineFault(
                Refusal.WORKER_COMMUNICATION_FAILED, "the upstream server cannot be reached"
            )
        return EngineFault(Refusal.STREAM_READ_ERROR, "the upstream's answer broke off")

    async def _wait_for_models(self) -> list[Mapping[str, Any]]:
        """Return the models that the server lists; wait for one that we started, or that says it is loading."""
        deadline = self._clock.now().mono_ms + UPSTREAM_START_TIMEOUT_MS
        while True:
            fault = EngineFault(
                Refusal.WORKER_COMMUNICATION_FAILED, "the upstream server cannot be reached"
            )
            waits = bool(self._options.command)
            try:
                response = await self._require().get("/models", timeout=RPC_DEADLINE_MS / 1_000)
                if response.is_success:
                    return _models(response)
                fault = upstream_fault(response.status_code, response.text)
                waits = response.status_code == httpx.codes.SERVICE_UNAVAILABLE
            except httpx.HTTPError as error:
                fault.__cause__ = error
            if self._process is not None and self._process.exit_code is not None:
                raise EngineFault(
                    Refusal.MODEL_LOAD_FAILED,
                    f"the upstream server has exited with code {self._process.exit_code}",
                )
            if not waits or self._clock.now().mono_ms >= deadline:
                raise fault
            await self._clock.sleep_ms(UPSTREAM_PROBE_INTERVAL_MS)

    def _chosen(self, listed: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        for model in listed:
            if not self._model or model.get("id") == self._model:
                self._model = str(model.get("id", ""))
                return model
        raise EngineFault(
            Refusal.MODEL_LOAD_FAILED, f"the upstream server has no model {self._model!r}"
        )

    def _prompt_tokens(self, generation: Generation, answer: UpstreamAnswer) -> int:
        if answer.prompt_tokens is None:
            return _estimate(generation)
        return max(answer.prompt_tokens - generation.resume_count, 0)


def _request(
    generation: Generation, model: str, *, extensions: bool
) -> tuple[str, dict[str, object]]:
    body: dict[str, object] = {
        "model": model,
        "max_tokens": generation.max_tokens - generation.resume_count,
        "temperature": generation.temperature,
        "top_p": generation.top_p,
        "seed": generation.seed,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    # Stop strings are looked for here: servers differ in how many they take, and llama-server loses the text that it
    # held back when the answer reaches its limit.
    if extensions:
        body["top_k"] = generation.top_k or -1  # every server takes -1 for all, not every one 0
        # So that the prompt's tokens are known also when a stop string ends the answer before the server's last event.
        body["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
        body["timings_per_token"] = True
    if not generation.messages:
        body["prompt"] = generation.prompt + generation.resume_text
        return "/completions", body
    messages = [{"role": role, "content": content} for role, content in generation.messages]
    if generation.resume_text:
        messages.append({"role": "assistant", "content": generation.resume_text})
        if extensions:
            body |= {"add_generation_prompt": False, "continue_final_message": True}
    body["messages"] = messages
    return "/chat/completions", body


def _models(response: httpx.Response) -> list[Mapping[str, Any]]:
    try:
        return [dict(model) for model in response.json()["data"]]
    except (ValueError, KeyError, TypeError) as error:
        raise EngineFault(
            Refusal.PARSE_ERROR, "the upstream server does not list models as OpenAI's do"
        ) from error


def _estimate(generation: Generation) -> int:
    text = generation.prompt or "".join(content for _, content in generation.messages)
    return max(1, -(-len(text.encode()) // _BYTES_PER_TOKEN))
