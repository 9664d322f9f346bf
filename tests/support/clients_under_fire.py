"""Clients that go on asking while processes die under them, and keep book of what they were promised and what they got.

Each job is followed in one of three ways: to its end on one stream (which comes back by itself), on streams that are
dropped every few tokens and opened again by index, or not at all between its submission and its end. Beside them a
client that never comes back shows that streams do break.
"""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field

import grpc
from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard.queen.v1 import inference_service_pb2_grpc as rpc
from beeyard_client import BeeyardClient
from beeyard_client.events import Finished, Tokens
from beeyard_client.stream import JobStream

from tests.support.expected_answer import Answer, Asked

MODEL = "tiny"
#: A queen that restarts on a loaded machine is away for seconds.
PATIENCE_MS = 60_000
ATTEMPTS = 10


@dataclass
class Book:
    """What clients were promised and what they got.

    Attributes:
        accepted: The job that the queen made of each request that it accepted.
        faults: What should never be: a token that is missing, repeated or changed, no ending or two.
        resumes: Streams that a client opened again by index.
        broken: How streams ended that nobody opened again, other than well.
        ended: Jobs whose end their client saw.
    """

    accepted: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    resumes: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    ended: int = 0

    def accept(self, asked: Asked, job_id: str) -> None:
        """Note a promise; the same request never becomes two jobs."""
        earlier = self.accepted.setdefault(asked.request_id, job_id)
        if earlier != job_id:
            self.faults.append(f"{asked.request_id} became {earlier} and {job_id}")


@dataclass
class Gathered:
    """What one client has of one answer."""

    asked: Asked
    book: Book
    ids: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    endings: int = 0

    def take(self, event: object) -> None:
        """Take one event of a stream."""
        match event:
            case Tokens():
                if event.first_index != len(self.ids) or self.endings:
                    said = f"token {event.first_index} came where {len(self.ids)} was due"
                    self.book.faults.append(f"{self.asked.request_id}: {said}")
                self.ids += event.ids
                self.texts.append(event.text)
            case Finished():
                self.endings += 1
            case _:
                pass

    async def check_so_far(self) -> None:
        """Hold what came against the beginning of the answer: the job need not have ended."""
        expected = await Answer.to(self.asked)
        whole = "".join(self.texts)
        if tuple(self.ids) != expected.ids[: len(self.ids)] or not expected.text.startswith(whole):
            self.book.faults.append(f"{self.asked.request_id}: not the answer")

    async def check(self) -> None:
        """Hold it against the whole answer."""
        expected = await Answer.to(self.asked)
        if tuple(self.ids) != expected.ids or "".join(self.texts) != expected.text:
            self.book.faults.append(f"{self.asked.request_id}: not the answer")
        if self.endings != 1:
            self.book.faults.append(f"{self.asked.request_id}: {self.endings} endings")
        self.book.ended += 1


class Clients:
    """All clients of one queen."""

    def __init__(self, book: Book, chance: random.Random) -> None:
        """Keep this book; `chance` says after how many tokens a stream is dropped."""
        self._book = book
        self._chance = chance
        #: Set once a client that never resumes is connected.
        self.one_never_resumes = asyncio.Event()

    async def follow(self, client: BeeyardClient, asked: Asked) -> None:
        """Follow a job on one stream to its end."""
        gathered = Gathered(asked, self._book)
        stream = self._infer(client, asked)
        async for event in stream:
            self._book.accept(asked, stream.job_id)
            gathered.take(event)
        await gathered.check()

    async def drop(self, client: BeeyardClient, asked: Asked) -> None:
        """Follow a job on streams that are left every few tokens and opened again by index."""
        gathered = Gathered(asked, self._book)
        stream = self._infer(client, asked)
        while await self._some(stream, gathered):
            stream = client.watch(self._book.accepted[asked.request_id], len(gathered.ids))
            self._book.resumes += 1
        await gathered.check()

    async def submit(self, client: BeeyardClient, asked: Asked) -> None:
        """Submit a job and come for the answer afterwards."""
        options = options_of(asked)
        job = await client.submit(asked.prompt, **options)  # type: ignore[arg-type]
        self._book.accept(asked, job.job_id)
        gathered = Gathered(asked, self._book)
        async for event in client.watch(job.job_id):
            gathered.take(event)
        await gathered.check()

    async def never_resume(self, channel: grpc.aio.Channel, asked: Asked) -> None:
        """Ask until the job is accepted, follow it on that stream and leave it at that: the control."""
        request = pb.InferRequest(model=MODEL, prompt=asked.prompt, max_tokens=asked.max_tokens)
        request.request_id, request.seed, request.max_attempts = (
            asked.request_id,
            asked.seed,
            ATTEMPTS,
        )
        while asked.request_id not in self._book.accepted:
            call = rpc.InferenceServiceStub(channel).Infer(request, wait_for_ready=True)
            try:
                async for event in call:
                    self._book.accept(asked, event.job_id)
                    self.one_never_resumes.set()
            except grpc.aio.AioRpcError as error:
                self._book.broken[error.code().name] += asked.request_id in self._book.accepted
            finally:
                call.cancel()

    def _infer(self, client: BeeyardClient, asked: Asked) -> JobStream:
        return client.infer(asked.prompt, **options_of(asked))  # type: ignore[arg-type]

    async def _some(self, stream: JobStream, gathered: Gathered) -> bool:
        """Take a few tokens and leave the stream; return whether there is more to come."""
        # A short answer is taken in two parts at least, however much of it a message brings.
        few = min(12, gathered.asked.max_tokens // 2)
        until = len(gathered.ids) + self._chance.randint(1, few)
        try:
            async for event in stream:
                self._book.accept(gathered.asked, stream.job_id)
                gathered.take(event)
                if isinstance(event, Tokens) and len(gathered.ids) >= until:
                    return True
        finally:
            await stream.aclose()
        return False


def options_of(asked: Asked) -> dict[str, object]:
    """Return what a client is told besides the prompt."""
    return {
        "model": MODEL,
        "request_id": asked.request_id,
        "max_tokens": asked.max_tokens,
        "seed": asked.seed,
        "max_attempts": ATTEMPTS,
    }


async def replay(client: BeeyardClient, job_id: str, asked: Asked, book: Book) -> None:
    """Read a job's whole story once more, from its first token."""
    gathered = Gathered(asked, book)
    async for event in client.watch(job_id):
        gathered.take(event)
    await gathered.check()
