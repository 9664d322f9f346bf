"""How many workers a model has, in every history of jobs, operators and time."""

from collections.abc import Callable, Iterable
from itertools import pairwise

from beeyard_core.ids import ModelName, PoolId
from beeyard_core.job import Priority
from beeyard_core.scaling import Eviction, Scale, ScaleSettings
from beeyard_core.state import Settings
from hypothesis import given
from hypothesis import strategies as st

from tests.support.apiary import Apiary
from tests.support.cases import in_cases
from tests.support.core_values import START
from tests.support.host_yard import HostYard

M, N = ModelName("m"), ModelName("n")
RESIDENCE_MS = 20_000

scales = st.builds(
    lambda least, more, warm_s: Scale(
        min_workers=least,
        max_workers=max(least + more, 1) if more is not None else None,
        keep_warm_ms=None if warm_s is None else warm_s * 1_000,
    ),
    st.integers(0, 2),
    st.none() | st.integers(0, 2),
    st.none() | st.sampled_from([0, 3, 15]),
)
moves = st.lists(
    st.tuples(st.just("submit"), st.sampled_from([M, N]), st.sampled_from(list(Priority)))
    | st.tuples(st.just("wait"), st.sampled_from([1, 4, 12]), st.just(0)),
    min_size=5,
    max_size=25,
)
rooms = st.lists(st.integers(1, 3), min_size=1, max_size=3)


def yard_of(
    counts: Iterable[int],
    scaling: ScaleSettings,
    *,
    load_ms: int = 2_000,
    service_ms: int = 3_000,
    checks: bool = False,
) -> HostYard:
    """Hosts with room for so many workers, under a queen that was told this."""
    return HostYard(
        apiary=Apiary(Settings(scaling=scaling), checks=checks),
        rooms={PoolId(f"p{number}"): count for number, count in enumerate(counts)},
        models=(M, N),
        load_ms=load_ms,
        service_ms=service_ms,
    )


def play(
    yard: HostYard,
    history: list[tuple[str, object, object]],
    after_each: Callable[[], None] = lambda: None,
) -> None:
    """Let it happen; look after each second."""
    for name, first, second in history:
        if name == "submit":
            assert isinstance(first, str)
            assert isinstance(second, Priority)
            yard.submit(ModelName(first), second)
            after_each()
        else:
            assert isinstance(first, int)
            for _ in range(first):
                yard.advance(1_000)
                after_each()


@in_cases(15)
@given(rooms, scales, scales, moves, st.sampled_from(Eviction))
def test_no_model_has_more_workers_than_its_most_and_each_has_its_least_where_there_is_room(
    counts: list[int],
    m: Scale,
    n: Scale,
    history: list[tuple[str, object, object]],
    eviction: Eviction,
) -> None:
    scaling = ScaleSettings(by_model={M: m, N: n}, eviction=eviction, scale_out_after_ms=1_000)
    yard = yard_of(counts, scaling)

    def check() -> None:
        for model, scale in ((M, m), (N, n)):
            if scale.max_workers is not None:
                assert yard.count(model) <= scale.max_workers

    play(yard, history, check)
    # What loads now is loaded by then. Nobody else's worker goes for the least, so only what is free is room.
    yard.advance(6_000)
    free = sum(counts) - yard.count(M) - yard.count(N)
    workers = yard.apiary.state.fleet.workers.values()
    for model, scale in ((M, m), (N, n)):
        staying = sum(w.report.model == model and not w.is_drained for w in workers)
        assert staying >= scale.min_workers or not free
    assert [each for each in yard.ended if each.leases] == [], "it held a lease"


@in_cases(12)
@given(scales, moves, st.sampled_from([None, 3_000, 15_000]))
def test_with_room_for_all_a_worker_stays_for_as_long_as_its_model_is_kept_warm(
    m: Scale, history: list[tuple[str, object, object]], warm_ms: int | None
) -> None:
    # Room for everybody: nobody has to go for another model.
    scale = Scale(min_workers=m.min_workers, keep_warm_ms=warm_ms)
    yard = yard_of([20], ScaleSettings(otherwise=Scale(keep_warm_ms=warm_ms), by_model={M: scale}))
    play(yard, history)
    assert warm_ms is not None or yard.ended == []
    assert all(each.ended_ms - each.ready_ms >= (warm_ms or 0) for each in yard.ended)


@in_cases(12)
@given(moves)
def test_a_model_that_nobody_uses_any_more_has_no_worker_in_the_end(
    history: list[tuple[str, object, object]],
) -> None:
    yard = yard_of([2], ScaleSettings(otherwise=Scale(keep_warm_ms=5_000)))
    play(yard, history)
    for _ in range(200):
        if not len(yard.apiary.state.queue) and not yard.apiary.state.leases:
            break
        yard.advance(1_000)
    yard.advance(10_000)
    assert yard.apiary.state.queue.waiting_models() == []
    assert yard.count(M) == yard.count(N) == 0


@in_cases(6)
@given(
    st.sampled_from([1, 3, 8]),
    st.sampled_from([250, 5_000]),
    st.sampled_from([250, 3_000]),
    st.sampled_from([Priority.INTERACTIVE, Priority.BATCH]),
)
def test_two_models_that_want_one_device_by_turns_exchange_at_most_once_a_residence(
    pause_s: int, load_ms: int, service_ms: int, priority: Priority
) -> None:
    scaling = ScaleSettings(residence_ms=RESIDENCE_MS)
    yard = yard_of([1], scaling, load_ms=load_ms, service_ms=service_ms)
    turns = 0
    while yard.now_ms - START.mono_ms < 5 * RESIDENCE_MS:
        yard.submit((M, N)[turns % 2], priority)
        turns += 1
        yard.advance(pause_s * 1_000)
    for first, second in pairwise(yard.ended):
        assert second.ended_ms - first.ended_ms >= RESIDENCE_MS
    assert all(each.ended_ms - each.ready_ms >= RESIDENCE_MS for each in yard.ended)
    if service_ms < 1_000:
        # Bounded from below as well: a device that has time for both serves both.
        assert len(yard.ended) >= 2


@in_cases(10)
@given(moves, st.sampled_from(Eviction))
def test_who_is_evicted_early_made_room_for_more_urgent_work(
    history: list[tuple[str, object, object]], eviction: Eviction
) -> None:
    scaling = ScaleSettings(residence_ms=RESIDENCE_MS, eviction=eviction)
    yard = yard_of([1], scaling, load_ms=1_000, service_ms=1_000)
    urgent = {Priority(number) for number in range(1, 5)}
    classes: set[Priority] = set()
    for name, _, second in history:
        if name == "submit":
            assert isinstance(second, Priority)
            classes.add(second)
    play(yard, history)
    early = [each for each in yard.ended if each.ended_ms - each.ready_ms < RESIDENCE_MS]
    # With one class only nobody is more urgent than anybody else.
    assert not early or len(classes & urgent) > 1
