"""`/v2/jobs`: jobs as the queen knows them, under the names of the protos; their events as server-sent events."""

from contextlib import aclosing
from http import HTTPStatus
from typing import Final

from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard.queen.v1 import job_pb2
from beeyard_core import limits
from beeyard_runtime.clock import Clock

from beeyard_gateway.asking import END_ID, Asking, read_asking
from beeyard_gateway.event_stream import EventStream, OpenStreams, while_connected
from beeyard_gateway.exchange import Exchange, dump
from beeyard_gateway.faults import Fault, HttpReason, invalid
from beeyard_gateway.following import ENDINGS, JobFollow, place_headers
from beeyard_gateway.message_json import from_json, number_of, to_json
from beeyard_gateway.metrics import GatewayMetrics
from beeyard_gateway.queen_link import QueenLink

_STREAM_TIMEOUT_S: Final = limits.DEADLINE_MS_MAX / 1_000


class Jobs:
    """Submit, look, follow, cancel, explain."""

    def __init__(
        self, link: QueenLink, clock: Clock, streams: OpenStreams, metrics: GatewayMetrics
    ) -> None:
        """Serve the jobs of this queen."""
        self._link = link
        self._clock = clock
        self._streams = streams
        self._metrics = metrics

    async def submit(self, exchange: Exchange) -> None:
        """Submit a job; answer with 202 once it is durable."""
        with self._metrics.counting_refusals():
            asking = read_asking(exchange, self._clock)
            request = from_json(await exchange.json(), pb.InferRequest)
            _add(request, asking)
            event = await while_connected(exchange, self._accepted(request))
        self._metrics.enqueued(request.priority)
        location = f"/v2/jobs/{event.job_id}"
        told: dict[str, object] = {
            "job_id": event.job_id,
            "queue_position": event.queued.position,
            "predicted_start_ms": event.queued.predicted_start_ms,
            "url": location,
            "events_url": f"{location}/events",
        }
        if event.queued.HasField("budget"):
            told["budget"] = to_json(event.queued.budget)
        if event.queued.HasField("prediction"):
            told["prediction"] = to_json(event.queued.prediction)
        headers = [(b"location", location.encode()), *place_headers(event.queued)]
        await exchange.reply_json(told, status=HTTPStatus.ACCEPTED, headers=headers)

    async def _accepted(self, request: pb.InferRequest) -> job_pb2.JobEvent:
        """Return the event that a job was accepted with: only `Infer` tells when it is predicted to start."""
        follow = JobFollow(
            self._link,
            self._clock,
            lambda: self._link.inference.Infer(request, timeout=_STREAM_TIMEOUT_S),
            may_repeat=bool(request.request_id),
        )
        # Leaving the stream does not end the job.
        async with aclosing(follow.events()) as events:
            async for event in events:
                return event
        raise Fault(HttpReason.QUEEN_UNREACHABLE, "the queen did not accept the job")

    async def list_page(self, exchange: Exchange) -> None:
        """Answer with one page of jobs, newest first."""
        states = [one for one in exchange.in_query("state").split(",") if one]
        request = pb.ListJobsRequest(
            page_size=page_size_of(exchange),
            page_token=exchange.in_query("page_token"),
            tenant_id=exchange.in_query("tenant_id"),
            model=exchange.in_query("model"),
            states=[
                job_pb2.JobState.ValueType(number_of(job_pb2.JobState.DESCRIPTOR, one, "state"))
                for one in states
            ],
        )
        page = await self._link.ask(self._link.inference.ListJobs, request)
        await exchange.reply_json(to_json(page))

    async def get(self, exchange: Exchange) -> None:
        """Answer with one job."""
        request = pb.GetJobRequest(job_id=exchange.in_path("job_id"))
        job = await self._link.ask(self._link.inference.GetJob, request)
        await exchange.reply_json(to_json(job))

    async def cancel(self, exchange: Exchange) -> None:
        """Cancel a job and answer with it."""
        request = pb.CancelJobRequest(job_id=exchange.in_path("job_id"))
        job = await self._link.ask(self._link.inference.CancelJob, request)
        self._metrics.cancelled("request")
        await exchange.reply_json(to_json(job))

    async def explain(self, exchange: Exchange) -> None:
        """Answer with why a job is where it is."""
        request = pb.ExplainJobRequest(job_id=exchange.in_path("job_id"))
        explained = await self._link.ask(self._link.inference.ExplainJob, request)
        await exchange.reply_json(to_json(explained))

    async def events(self, exchange: Exchange) -> None:
        """Follow a job. `id:` is the index of the last token; whoever comes back after the end is told to stop."""
        asking = read_asking(exchange, self._clock)
        if asking.has_seen_end:
            await exchange.reply(b"", status=HTTPStatus.NO_CONTENT)
            return
        follow = JobFollow(
            self._link,
            self._clock,
            job_id=exchange.in_path("job_id"),
            next_index=asking.from_token or from_token_of(exchange),
        )
        stream = EventStream(exchange, self._clock)
        try:
            await self._streams.run(stream, exchange, _write(stream, follow))
        except Fault as fault:
            if not stream.has_begun:
                raise
            await stream.end(_event("error", fault.problem(exchange.correlation_id)))


async def _write(stream: EventStream, follow: JobFollow) -> None:
    async with aclosing(follow.events()) as events:
        async for event in events:
            kind = event.WhichOneof("event") or "unknown"
            told = to_json(event)
            last = b""
            if kind == "tokens":
                last = b"id: %d\n" % (event.tokens.first_index + event.tokens.count - 1)
            if kind in ENDINGS:
                last = b"id: %b\n" % END_ID.encode()
            await stream.write(last + _event(kind, {"job_id": event.job_id, **told.get(kind, {})}))
    await stream.end()


def _event(kind: str, value: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), dump(value))


def _add(request: pb.InferRequest, asking: Asking) -> None:
    """Take over what the headers say where the body says nothing.

    Raises:
        Fault: INVALID_REQUEST: both say something, and not the same.
    """
    for field, value in (
        ("request_id", asking.request_id),
        ("priority", asking.priority),
        ("tenant_id", asking.tenant_id),
        ("session_id", asking.session_id),
        ("deadline_ms", asking.deadline_ms),
    ):
        if not value:
            continue
        if getattr(request, field) not in (value, type(value)()):
            raise invalid(f"{field}: the header and the body differ", field=field)
        setattr(request, field, value)


def page_size_of(exchange: Exchange) -> int:
    """Return how many entries a page should have; 0: not said."""
    return _small_number(exchange, "page_size", limits.LIST_PAGE_MAX)


def from_token_of(exchange: Exchange) -> int:
    """Return the index of the first token to send."""
    return _small_number(exchange, "from_token", limits.MAX_TOKENS_LIMIT)


def _small_number(exchange: Exchange, name: str, most: int) -> int:
    text = exchange.in_query(name)
    if not text:
        return 0
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) <= most):
        raise invalid(f"{name}: must be 0 to {most}", field=name)
    return int(text)
