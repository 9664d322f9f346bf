"""`POST /v1/chat/completions` and `/v1/completions`: a job for each request, followed to its end.

When the client hangs up, the job is cancelled, unless the client said that it may come back (`X-Beeyard-Detach`, or an
`Idempotency-Key`). Then it goes on with the same request, the key and `Last-Event-ID`, at this gateway or another one.
"""

import asyncio
import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard.queen.v1 import job_pb2
from beeyard.worker.v1 import generation_pb2
from beeyard_core import limits
from beeyard_runtime.clock import Clock
from beeyard_runtime.telemetry import Telemetry

from beeyard_gateway.asking import Asking, read_asking
from beeyard_gateway.cancelling import Cancellations
from beeyard_gateway.event_stream import EventStream, OpenStreams
from beeyard_gateway.exchange import Exchange, HungUp, dump
from beeyard_gateway.faults import Fault, Headers, HttpReason, JobFault, invalid, of_failed
from beeyard_gateway.following import JobFollow, place_headers
from beeyard_gateway.metrics import GatewayMetrics
from beeyard_gateway.openai.answers import Chunks, Kind, whole
from beeyard_gateway.openai.schema import ChatRequest, TextRequest, parse
from beeyard_gateway.openai.translation import chat_job, text_job
from beeyard_gateway.queen_link import QueenLink
from beeyard_gateway.tracing import JobSpan, job_span

_STREAM_TIMEOUT_S: Final = limits.DEADLINE_MS_MAX / 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the endpoints that run jobs work with."""

    link: QueenLink
    clock: Clock
    streams: OpenStreams
    cancellations: Cancellations
    metrics: GatewayMetrics
    telemetry: Telemetry


class Completions:
    """Both kinds of completion."""

    def __init__(self, services: Services) -> None:
        """Serve over these."""
        self._services = services

    async def chat(self, exchange: Exchange) -> None:
        """Answer a conversation."""
        with self._services.metrics.counting_refusals():
            asking = read_asking(exchange, self._services.clock)
            request = parse(ChatRequest, await exchange.body())
            job = chat_job(request, asking)
            turn = _Turn(self._services, exchange, "chat", asking, job, request.wants_usage)
            await turn.answer(is_streamed=bool(request.stream))

    async def text(self, exchange: Exchange) -> None:
        """Continue a text."""
        with self._services.metrics.counting_refusals():
            asking = read_asking(exchange, self._services.clock)
            request = parse(TextRequest, await exchange.body())
            job = text_job(request, asking)
            turn = _Turn(self._services, exchange, "text", asking, job, request.wants_usage)
            await turn.answer(is_streamed=bool(request.stream))


class _Turn:
    """One request from its job to its last byte."""

    def __init__(
        self,
        services: Services,
        exchange: Exchange,
        kind: Kind,
        asking: Asking,
        job: pb.InferRequest,
        wants_usage: bool,  # noqa: FBT001  made in two places, above
    ) -> None:
        self._services = services
        self._exchange = exchange
        self._kind: Kind = kind
        self._asking = asking
        self._job = job
        self._wants_usage = wants_usage
        self._created_s = services.clock.now().wall_ms // 1_000
        self._began = time.perf_counter()
        self._first_token_at = 0.0
        self._model = job.model
        self._accepted = asyncio.Event()
        self._follow = JobFollow(
            services.link,
            services.clock,
            lambda: services.link.inference.Infer(job, timeout=_STREAM_TIMEOUT_S),
            may_repeat=bool(job.request_id),
        )

    async def answer(self, *, is_streamed: bool) -> None:
        """Run the job and answer with it."""
        self._check_resumption(is_streamed=is_streamed)
        try:
            with job_span(self._services.telemetry, self._job) as span:
                if is_streamed:
                    await self._stream(span)
                else:
                    await self._whole(span)
        except (HungUp, Fault, asyncio.CancelledError):
            # A fault may be that this gateway ends, and not the job.
            self._leave()
            raise

    def _check_resumption(self, *, is_streamed: bool) -> None:
        if self._asking.has_seen_end or (self._asking.from_token and not is_streamed):
            raise invalid(
                "Last-Event-ID: only a stream can be resumed, by the index of a token",
                field="Last-Event-ID",
            )
        if self._asking.from_token and not self._asking.request_id:
            message = (
                "Last-Event-ID: send the Idempotency-Key of the first request, which names the job"
            )
            raise invalid(message, field="Last-Event-ID")

    def _leave(self) -> None:
        """Cancel the job of a client that is gone and said nothing of coming back."""
        follow = self._follow
        if follow.job_id and not follow.has_ended and not self._asking.detached:
            self._services.cancellations.begin(follow.job_id)

    async def _settle(self, work: "asyncio.Task[Any]") -> None:
        """Wait for the name of the job, if it is not known yet: without it, it could not be cancelled."""
        if self._follow.job_id or self._asking.detached:
            return
        waits = asyncio.create_task(self._accepted.wait())
        try:
            await asyncio.wait(
                {waits, work},
                timeout=limits.HANGUP_PATIENCE_MS / 1_000,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            waits.cancel()

    # --- Streamed ---
    async def _stream(self, span: JobSpan) -> None:
        services = self._services
        stream = EventStream(self._exchange, services.clock)
        try:
            work = self._write(stream, span)
            await services.streams.run(stream, self._exchange, work, self._settle)
        except Fault as fault:
            if not stream.has_begun:
                raise
            span.fail(fault)
            self._leave()
            await stream.end(b"data: " + dump(fault.openai()) + b"\n\n")

    async def _write(self, stream: EventStream, span: JobSpan) -> None:
        await self._resume()
        chunks: Chunks | None = None
        async with aclosing(self._follow.events()) as events:
            async for event in events:
                span.record(event)
                match event.WhichOneof("event"):
                    case "tokens":
                        if chunks is None:
                            chunks = self._chunks()
                            self._note_first_token()
                        if event.tokens.text:
                            last = event.tokens.first_index + event.tokens.count - 1
                            await stream.write(chunks.tokens(last, event.tokens.text))
                    case "queued":
                        self._note_queued(event)
                        stream.add_headers(self._headers(event))
                    case "started":
                        self._note_started(event.started)
                    case "progress":
                        words = b": %b, %d ahead\n\n"
                        stage = event.progress.stage.encode()
                        await stream.write(words % (stage, event.progress.position))
                    case "finished":
                        chunks = chunks or self._chunks()
                        self._note_finished(event.finished)
                        await stream.end(chunks.finish(event.finished.reason, event.finished.usage))
                    case _:
                        raise _ended(event)

    async def _resume(self) -> None:
        """Find the job that a client comes back to, by its key; nothing to do for one that begins."""
        if not self._asking.from_token:
            return
        again = pb.SubmitJobRequest.FromString(self._job.SerializeToString())
        link = self._services.link
        job = await link.ask(link.inference.SubmitJob, again)
        self._follow = JobFollow(
            link, self._services.clock, job_id=job.job_id, next_index=self._asking.from_token
        )

    def _chunks(self) -> Chunks:
        return Chunks(
            self._kind,
            job_id=self._follow.job_id,
            model=self._model,
            created_s=self._created_s,
            wants_usage=self._wants_usage,
            is_resumed=bool(self._asking.from_token),
        )

    # --- Whole ---
    async def _whole(self, span: JobSpan) -> None:
        work = self._gather(span)
        body, headers = await self._services.streams.run_whole(self._exchange, work, self._settle)
        await self._exchange.reply(body, headers=headers)

    async def _gather(self, span: JobSpan) -> tuple[bytes, Headers]:
        texts: list[str] = []
        headers: Headers = []
        async with aclosing(self._follow.events()) as events:
            async for event in events:
                span.record(event)
                match event.WhichOneof("event"):
                    case "tokens":
                        if not texts:
                            self._note_first_token()
                        texts.append(event.tokens.text)
                    case "queued":
                        self._note_queued(event)
                        headers = self._headers(event)
                    case "started":
                        self._note_started(event.started)
                    case "progress":
                        pass
                    case "finished":
                        self._note_finished(event.finished)
                        return self._body("".join(texts), event.finished), headers
                    case _:
                        raise _ended(event)
        raise Fault(HttpReason.QUEEN_UNREACHABLE, "the stream ended before the job did")

    def _body(self, text: str, finished: job_pb2.JobFinished) -> bytes:
        return dump(
            whole(
                self._kind,
                job_id=self._follow.job_id,
                model=self._model,
                created_s=self._created_s,
                text=text,
                reason=finished.reason,
                usage=finished.usage,
            )
        )

    # --- What is noted on the way ---
    def _headers(self, event: job_pb2.JobEvent) -> Headers:
        return [
            (b"x-beeyard-job-id", event.job_id.encode()),
            *place_headers(event.queued),
        ]

    def _note_queued(self, event: job_pb2.JobEvent) -> None:
        self._accepted.set()
        self._services.metrics.enqueued(self._job.priority)

    def _note_started(self, started: job_pb2.JobStarted) -> None:
        self._model = started.model
        self._services.metrics.started(started.model)

    def _note_first_token(self) -> None:
        self._first_token_at = time.perf_counter()
        took_ms = (self._first_token_at - self._began) * 1_000
        self._services.metrics.first_token(self._job.priority, took_ms)

    def _note_finished(self, finished: job_pb2.JobFinished) -> None:
        usage: generation_pb2.Usage = finished.usage
        since = self._first_token_at or time.perf_counter()
        self._services.metrics.finished(
            self._model,
            self._job.priority,
            tokens_in=usage.prompt_tokens,
            tokens_out=usage.completion_tokens,
            decode_ms=(time.perf_counter() - since) * 1_000,
        )


def _ended(event: job_pb2.JobEvent) -> Fault:
    if event.WhichOneof("event") == "failed":
        return of_failed(event.failed)
    return JobFault(HttpReason.CANCELLED, "the job was cancelled")
