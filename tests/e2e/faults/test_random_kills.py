"""Processes of every role are killed at random under load, and nothing is lost, done twice or torn.

Real processes, real `kill -9`. What each client must get is worked out beforehand, so every token of every stream is
compared. In the same run clients that do not come back show that streams break, and the queen's log shows that attempts
were broken: nobody gets through such a run by luck.
"""

import asyncio
import os
import random
from collections import Counter
from collections.abc import Callable, Coroutine

import pytest
from beeyard_client import BeeyardClient, BeeyardError
from beeyard_client.job import JobState

from tests.support.chaos import PATIENCE_S, REST_S, Chaos
from tests.support.clients_under_fire import PATIENCE_MS, Book, Clients, replay
from tests.support.eventually import eventually
from tests.support.expected_answer import Asked
from tests.support.followed import Followed
from tests.support.service_log import queen_log
from tests.support.soak import IS_SOAK, drawn_seed, figure_of, scaled
from tests.support.stack import Stack

#: BEEYARD_SOAK_JOBS chooses another number for `make soak`; kills, stops and resumes go with it.
JOBS = scaled(2_000, int(os.environ.get("BEEYARD_SOAK_JOBS") or 100_000))
KILLS = scaled(30, JOBS // 100)
STOPS = scaled(2, JOBS // 2_000)
#: So many are stopped at most until somebody wrote for a lease that was over.
STOPS_MAX = scaled(12, 60)
RESUMES = scaled(1_000, JOBS // 5)
AT_ONCE = 48
#: How often a run that takes an hour says where it is, in kills.
TOLD_EVERY = 50
#: Every client has checked its own answer; of so many, one is read once more at the end.
REPLAYED_EVERY = 10
#: One job in so many is long; of the long ones most are followed by clients that drop their streams.
LONG_EVERY = 16
#: Of the short ones one in so many, since on a slow machine a long answer comes in few, large messages.
SHORT_DROPPED_EVERY = 3
LONG_TOKENS = (150, 250)
#: Some seconds of answer: whoever is stopped at its beginning has more to write than fits into the life of a lease.
BAIT_TOKENS = 1_000
SHORT_TOKENS = (2, 10)
TTL_MS = 2_000
MODELS = {"tiny": "synthetic:200"}


def jobs_of(chance: random.Random) -> list[Asked]:
    """Draw all jobs: mostly short ones."""
    return [
        Asked(
            request_id=f"r{number}",
            prompt=f"bee {number}",
            max_tokens=chance.randint(*(SHORT_TOKENS if number % LONG_EVERY else LONG_TOKENS)),
            seed=chance.randrange(2**32),
        )
        for number in range(JOBS)
    ]


class Run:
    """One run: clients on one side, kills on the other, paced by how many jobs have ended."""

    def __init__(self, stack: Stack, client: BeeyardClient, chance: random.Random) -> None:
        self.book = Book()
        self.jobs = jobs_of(chance)
        self.chaos = Chaos(stack, random.Random(chance.random()))
        self.baits: list[Followed] = []
        self._stack = stack
        self._client = client
        self._clients = Clients(self.book, chance)
        self._progressed = asyncio.Event()
        self._done = 0

    async def play(self) -> None:
        """Run all jobs; return when the last has ended and the last process was killed."""
        room = asyncio.Semaphore(AT_ONCE)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._torment())
            for number, asked in enumerate(self.jobs):
                await room.acquire()
                group.create_task(self._one(number, asked, room))

    async def _one(self, number: int, asked: Asked, room: asyncio.Semaphore) -> None:
        try:
            await self._way_of(number)(asked)
        except BeeyardError as error:
            # Told with everything else at the end: what else broke explains it.
            self.book.faults.append(f"{asked.request_id}: {error}")
        finally:
            self._done += 1
            self._progressed.set()
            room.release()

    def _way_of(self, number: int) -> Callable[[Asked], Coroutine[None, None, None]]:
        """Return how a job is followed."""
        clients, client = self._clients, self._client
        if number % LONG_EVERY == 0:
            if number // LONG_EVERY % 8 == 0:
                channel = self._stack.channel(self._stack.queen_address)
                return lambda asked: clients.never_resume(channel, asked)
            return lambda asked: clients.drop(client, asked)
        if number % SHORT_DROPPED_EVERY == 0:
            return lambda asked: clients.drop(client, asked)
        way = clients.follow if number % 2 else clients.submit
        return lambda asked: way(client, asked)

    async def _torment(self) -> None:
        """Kill and stop, each when its share of the jobs is done."""
        deeds: list[Callable[[], Coroutine[None, None, None]]] = [self.chaos.kill_one] * KILLS
        deeds[0] = self._kill_under_a_stream
        for number in range(STOPS):
            deeds.insert((number + 1) * KILLS // (STOPS + 1), self._stop_one)
        for number, deed in enumerate(deeds):
            while self._done < number * JOBS * 0.9 / len(deeds):
                self._progressed.clear()
                await self._progressed.wait()
            await deed()
            if number and number % TOLD_EVERY == 0:
                self._tell()
            if 0 < self.chaos.stops < STOPS_MAX and not self.stale_writes:
                await self._stop_one()

    def _tell(self) -> None:
        """Say how far a long run is; `pytest -s` shows it as it goes."""
        kills, book = sum(self.chaos.kills.values()), self.book
        print(  # noqa: T201 - progress
            f"{kills} of {KILLS} kills, {self._done} of {JOBS} jobs, {book.resumes} resumes, "
            f"{len(book.faults)} faults{''.join(f'; {fault}' for fault in book.faults[-1:])}"
        )

    async def _kill_under_a_stream(self) -> None:
        """Kill the queen while somebody is connected who does not come back: one at least sees a stream break."""
        await self._clients.one_never_resumes.wait()
        await self.chaos.kill("queen")

    async def _stop_one(self) -> None:
        """Stop the queen and workers by turns, in the middle of a long answer."""
        number = len(self.baits)
        bait = Followed(self._client, Asked(f"bait{number}", f"bait {number}", BAIT_TOKENS, number))
        self.baits.append(bait)
        await eventually(
            lambda: bait.tokens > 0 or bait.task.done(), "the bait is taken", REST_S + PATIENCE_S
        )
        begun = len(bait.started)
        if self.chaos.stops % 2:
            await self.chaos.stop_worker(
                bait.started[-1].worker_id,
                lambda: len(bait.started) > begun or bait.task.done(),
            )
        else:
            await self.chaos.stop_queen(TTL_MS)

    @property
    def stale_writes(self) -> int:
        """Leases for which somebody spoke when they were no longer its own."""
        return queen_log(self._stack.folder).count("stale_epoch_write_refused")

    async def verify(self) -> None:
        """Read accepted jobs once more from their first token, from the queen that is left."""
        room = asyncio.Semaphore(AT_ONCE)
        by_request = {asked.request_id: asked for asked in self.jobs}

        async def one(request_id: str, job_id: str) -> None:
            async with room:
                await replay(self._client, job_id, by_request[request_id], self.book)

        for bait in self.baits:
            await bait.task
            self.book.faults += bait.book.faults
        async with asyncio.TaskGroup() as group:
            for request_id, job_id in list(self.book.accepted.items())[::REPLAYED_EVERY]:
                group.create_task(one(request_id, job_id))


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(scaled(290, 4 * 3_600))
async def test_nothing_is_lost_or_done_twice_while_every_role_is_killed(
    record_property: Callable[[str, object], None],
) -> None:
    seed = drawn_seed()
    print(f"seed {seed}; BEEYARD_SEED draws it again")  # noqa: T201 - shown with a failure
    flags = ("--lease-ttl-ms", str(TTL_MS))
    async with (
        Stack(
            models=MODELS, workers=3, queen_flags=flags, pool_manager_flags=("--slots", "16")
        ) as stack,
        BeeyardClient(stack.queen_address, connect_patience_ms=PATIENCE_MS) as client,
    ):
        run = Run(stack, client, random.Random(seed))
        await run.play()
        await run.verify()
        ended = [job async for job in client.list_jobs(page_size=1_000)]
        states = Counter(job.state for job in ended)
        log = queen_log(stack.folder)
        ends = Counter(entry["job_id"] for entry in log.entries("job_ended"))
        stale = run.stale_writes
        figure_of(
            record_property,
            "kill -9 of every role under load",
            seed=seed,
            jobs=len(run.book.accepted),
            kills=dict(run.chaos.kills),
            stops=run.chaos.stops,
            resumes=run.book.resumes,
            stale_leases_refused=stale,
            attempts_broken=log.count("job_requeued"),
            streams_broken_without_resume=dict(run.book.broken),
        )
        # No promise was broken.
        run.book.faults += [f"{job.request_id}: {job.failure}" for job in ended if job.failure]
        assert run.book.faults == []
        asked = {each.request_id for each in run.jobs}
        assert asked == run.book.accepted.keys(), asked - run.book.accepted.keys()
        assert IS_SOAK or states == {JobState.COMPLETED: JOBS + len(run.baits)}
        assert [job_id for job_id, count in ends.items() if count > 1] == []
        # And it was not for want of faults.
        assert sum(run.chaos.kills.values()) == KILLS
        assert stale > 0, "somebody spoke for a lease that was no longer its own"
        assert run.book.resumes >= RESUMES
        assert log.count("job_requeued") > 0, "attempts broke"
        assert run.book.broken["UNAVAILABLE"] > 0, "a stream that nobody resumes breaks"
