"""From a load to jobs: every draw of chance in a simulation happens here, from one seed.

What a job is must not depend on what a policy does, or two policies could not be compared on one load. So each stream
draws from a generator of its own, job by job, in the order of time.
"""

import heapq
import itertools
import math
import random
from bisect import bisect
from collections.abc import Callable, Iterator
from typing import NamedTuple

from beeyard_core.ids import ModelName, TenantId
from beeyard_core.job import JobSpec, Priority

from beeyard_queen.simulator.load import PRIORITY_OF, Burst, Deadline, Length, Load, Source, Stream


class Arrival(NamedTuple):
    """One job to come. `answer_tokens` is how much its model will say, which only the simulated worker knows."""

    at_ms: int
    spec: JobSpec
    answer_tokens: int


def arrivals(load: Load, models: tuple[ModelName, ...], seed: int) -> Iterator[Arrival]:
    """Yield the jobs of a load in the order of time; the same for the same seed.

    Args:
        load: What comes.
        models: The fleet's, for streams that name none.
        seed: Of every draw.
    """
    streams = [
        _stream(source, models, random.Random(f"{seed}/{number}"))  # noqa: S311  repeatable, not secret
        for number, source in enumerate(load.sources)
    ]
    # Arrivals of one moment keep the order of their streams: heapq.merge is stable.
    merged = heapq.merge(*streams, key=lambda arrival: arrival.at_ms)
    return itertools.islice(merged, load.jobs)


def _stream(
    source: Source, models: tuple[ModelName, ...], chance: random.Random
) -> Iterator[Arrival]:
    stream = source.stream
    make = _maker(stream, models, chance)
    until_ms = math.inf if stream.until_s is None else stream.until_s * 1_000
    if source.requests:
        for request in source.requests:
            moment = int(stream.from_s * 1_000 + request.at_ms / stream.speed)
            if moment >= until_ms:
                return
            yield make(moment, request.prompt_tokens, request.answer_tokens)
        return
    prompt, answer = _length(stream.prompt_tokens, chance), _length(stream.answer_tokens, chance)
    for at_ms in _poisson(stream, chance):
        if at_ms >= until_ms:
            return
        yield make(int(at_ms), prompt(), answer())


def _poisson(stream: Stream, chance: random.Random) -> Iterator[float]:
    """The moments of a Poisson process, in milliseconds; a burst is a higher rate, drawn by thinning."""
    assert stream.rate_per_s is not None
    burst = stream.burst
    most_per_ms = stream.rate_per_s / 1_000 * (burst.times if burst else 1.0)
    draw, pick = chance.expovariate, chance.random
    at_ms: float = stream.from_s * 1_000
    while True:
        at_ms += draw(most_per_ms)
        if burst is None or _is_bursting(burst, at_ms) or pick() * burst.times < 1.0:
            yield at_ms


def _is_bursting(burst: Burst, at_ms: float) -> bool:
    return at_ms / 1_000 % burst.every_s < burst.lasts_s


def _length(length: Length, chance: random.Random) -> Callable[[], int]:
    """Return what draws a length."""
    mean, most = length.mean, length.most
    match length.shape:
        case "constant":
            always = min(max(round(mean), 1), most)
            return lambda: always
        case "exponential":
            draw = chance.expovariate
            return lambda: min(max(round(draw(1 / mean)), 1), most)
        case "lognormal":
            lognormal, sigma = chance.lognormvariate, length.spread
            mu = math.log(mean) - sigma * sigma / 2
            return lambda: min(max(round(lognormal(mu, sigma)), 1), most)


def _shares(shares: dict[str, float], chance: random.Random) -> Callable[[], str]:
    """Return what draws a name by the weights."""
    names = list(shares)
    if len(names) == 1:
        return lambda: names[0]
    bounds = list(itertools.accumulate(shares.values()))
    total, last, draw = bounds[-1], len(names) - 1, chance.random
    return lambda: names[bisect(bounds, draw() * total, 0, last)]


def _maker(
    stream: Stream, models: tuple[ModelName, ...], chance: random.Random
) -> Callable[[int, int, int], Arrival]:
    """Return what makes a job of a stream out of its moment and its lengths."""
    model = _shares(stream.models or dict.fromkeys(models, 1.0), chance)
    tenant = _shares(stream.tenants, chance)
    priority = _shares({str(name): share for name, share in stream.classes.items()}, chance)
    deadline_ms = _deadline(stream.deadline, chance)
    asked, labels = stream.max_tokens, tuple(sorted(stream.labels.items()))

    def make(at_ms: int, prompt_tokens: int, answer_tokens: int) -> Arrival:
        of_class = PRIORITY_OF[priority()]
        answer = answer_tokens if asked is None else min(answer_tokens, asked)
        spec = JobSpec(
            model=ModelName(model()),
            prompt_tokens=prompt_tokens,
            max_tokens=asked or 1 << (answer - 1).bit_length(),
            priority=of_class,
            tenant_id=TenantId(tenant()),
            deadline_ms=deadline_ms(of_class),
            labels=labels,
        )
        return Arrival(at_ms, spec, answer)

    return make


def _deadline(deadline: Deadline | None, chance: random.Random) -> Callable[[Priority], int | None]:
    """Return what draws a job's deadline."""
    if deadline is None:
        return lambda _: None
    within_ms, share, draw = int(deadline.within_s * 1_000), deadline.share, chance.random
    only = {PRIORITY_OF[name] for name in deadline.classes or PRIORITY_OF}
    return lambda of_class: within_ms if of_class in only and draw() < share else None
