"""The governor: what a busy rating is made of, and what it lets through."""

import math
from dataclasses import replace

from beeyard_core import limits
from beeyard_core.fleet import Fleet, HostLoad, Pool
from beeyard_core.governor import (
    BUSY_MAX,
    GATED_FROM,
    SCALES,
    ApiLoad,
    Factor,
    Governor,
    Rating,
    rate,
    settle,
    usable_units,
)
from beeyard_core.ids import PoolId
from beeyard_core.instant import Instant
from beeyard_core.job import Priority
from hypothesis import given
from hypothesis import strategies as st

from tests.support.cases import in_cases
from tests.support.core_values import START, pool_of
from tests.support.heavy_work import IDLE_API, IDLE_HOST

in_many_worlds = in_cases(50)

percents = st.floats(min_value=0, max_value=100)
hosts = st.builds(HostLoad, cpu_percent=percents, memory_percent=percents)
apis = st.builds(
    ApiLoad,
    latency_p95_ms=st.floats(min_value=0, max_value=60_000),
    error_percent=percents,
    calls_inflight=st.integers(min_value=0, max_value=100_000),
)
#: Whatever a report may hold that is no measurement.
nothings = st.sampled_from([None, math.nan, math.inf, -math.inf, -1.0])


def busy(cpu: float | None = 10.0, memory: float | None = 20.0, **api: float) -> int:
    """Return the rating of a host, idle but for what is given."""
    load = ApiLoad(
        latency_p95_ms=api.get("latency", 5.0),
        error_percent=api.get("errors", 0.0),
        calls_inflight=int(api.get("calls", 3)),
    )
    return rate(HostLoad(cpu_percent=cpu, memory_percent=memory), load, START).busy


def test_an_idle_host_is_rated_zero() -> None:
    assert busy() == 0


def test_saturated_processors_slow_work_down_and_full_memory_ends_it() -> None:
    assert busy(cpu=100.0) == 7
    assert busy(memory=98.0) == 10


def test_points_grow_in_proportion_between_calm_and_full() -> None:
    assert [busy(cpu=value) for value in (50.0, 75.0, 100.0)] == [0, 4, 7]
    assert [busy(memory=value) for value in (70.0, 84.0, 98.0)] == [0, 5, 10]
    assert [busy(latency=value) for value in (250.0, 2_625.0, 5_000.0)] == [0, 5, 10]
    assert [busy(errors=value) for value in (1.0, 13.0, 25.0)] == [0, 5, 10]
    assert busy(calls=limits.CONCURRENT_RPCS_MAX) == 10


def test_half_busy_leaves_half_of_the_units_and_nine_leaves_a_tenth() -> None:
    assert [usable_units(100, rating, 0) for rating in (0, 5, 9, 10)] == [100, 50, 10, 0]
    assert usable_units(100, 5, 20) == 30
    assert usable_units(100, 9, 20) == 0


@in_many_worlds
@given(hosts, apis)
def test_a_rating_is_what_its_worst_factor_says(host: HostLoad, api: ApiLoad) -> None:
    rating = rate(host, api, START)
    assert rating.busy == max(factor.points for factor in rating.factors)
    assert 0 <= rating.busy <= BUSY_MAX
    assert rating.is_fresh
    assert [factor.factor for factor in rating.factors] == list(Factor)


@in_many_worlds
@given(hosts, apis, st.sampled_from(list(Factor)), nothings)
def test_a_measurement_that_is_missing_or_no_number_counts_as_busy(
    host: HostLoad, api: ApiLoad, missing: Factor, nothing: float
) -> None:
    names = {Factor.CPU: "cpu_percent", Factor.MEMORY: "memory_percent"}
    if missing in names:
        host = replace(host, **{names[missing]: nothing})
    else:
        api = replace(api, **{missing.value: nothing})  # type: ignore[arg-type]  # no number, on purpose
    for rating in (rate(host, api, START), rate(None, api, START), rate(host, None, START)):
        assert rating.busy == BUSY_MAX
        assert not rating.is_fresh
        assert usable_units(limits.CAPACITY_UNITS_MAX, rating.busy, 0) == 0


@in_many_worlds
@given(hosts, hosts, apis)
def test_a_host_that_is_busier_in_every_way_is_not_rated_lower(
    one: HostLoad, other: HostLoad, api: ApiLoad
) -> None:
    def most(a: float | None, b: float | None) -> float:
        return max(a or 0.0, b or 0.0)

    both = HostLoad(
        cpu_percent=most(one.cpu_percent, other.cpu_percent),
        memory_percent=most(one.memory_percent, other.memory_percent),
    )
    assert rate(both, api, START).busy >= rate(one, api, START).busy


@in_many_worlds
@given(st.integers(1, limits.CAPACITY_UNITS_MAX), st.integers(0, BUSY_MAX), st.integers(0, 20_000))
def test_usable_units_are_never_negative_and_never_more_than_there_are(
    total: int, rating: int, reserve: int
) -> None:
    assert 0 <= usable_units(total, rating, reserve) <= total
    if rating < BUSY_MAX:
        assert usable_units(total, rating + 1, reserve) <= usable_units(total, rating, reserve)


def test_every_class_is_gated_at_ten_and_the_less_urgent_earlier() -> None:
    gates = [GATED_FROM[priority] for priority in Priority]
    assert gates == sorted(gates, reverse=True)
    assert max(gates) == BUSY_MAX
    assert all(scale.points(1e9) == scale.most for scale in SCALES.values())


def rating_at(ms: int, cpu: float) -> Rating:
    return rate(HostLoad(cpu_percent=cpu, memory_percent=20.0), IDLE_API, START.later(ms))


def test_a_rating_rises_at_once_and_falls_by_one_point_a_second() -> None:
    rating = settle(rating_at(0, 10.0), rating_at(100, 100.0))
    assert rating.busy == 7
    told = []
    for ms in range(600, 9_000, 500):
        rating = settle(rating, rating_at(ms, 10.0))
        told.append(rating.busy)
    assert told == [7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0, 0, 0]


def test_a_burst_within_the_fall_counts_at_once() -> None:
    falling = settle(rating_at(0, 100.0), rating_at(3_000, 10.0))
    assert falling.busy == 4
    assert settle(falling, rating_at(3_100, 100.0)).busy == 7


def test_what_is_measured_after_silence_counts_at_once() -> None:
    silent = rate(None, IDLE_API, START)
    assert silent.busy == BUSY_MAX
    assert settle(silent, rating_at(10, 10.0)).busy == 0


def governed(load: HostLoad | None = IDLE_HOST, fault: str = "") -> tuple[Governor, Fleet]:
    fleet, governor = Fleet(), Governor()
    report = pool_of("p1", load=load, inventory_fault=fault)
    fleet.pools[PoolId("p1")] = Pool(report, START.mono_ms)
    governor.take_api(IDLE_API, START)
    governor.recalculate(fleet, START)
    return governor, fleet


def now_busy(governor: Governor, fleet: Fleet, at: Instant = START) -> int:
    return governor.rating_of(PoolId("p1"), fleet, at).busy


def test_a_host_that_reports_is_rated_by_what_it_says() -> None:
    assert now_busy(*governed()) == 0
    assert now_busy(*governed(HostLoad(cpu_percent=100.0, memory_percent=0.0))) == 7


def test_a_host_that_does_not_say_or_has_a_fault_or_is_unknown_is_full() -> None:
    assert now_busy(*governed(load=None)) == BUSY_MAX
    assert now_busy(*governed(fault="no driver")) == BUSY_MAX
    governor, fleet = governed()
    assert governor.rating_of(PoolId("elsewhere"), fleet, START).busy == BUSY_MAX


def test_a_report_that_went_stale_since_the_last_tick_is_not_trusted_until_the_next() -> None:
    governor, fleet = governed()
    late = START.later(limits.REPORT_STALE_MS + 1)
    governor.take_api(IDLE_API, late)
    assert now_busy(governor, fleet, late) == BUSY_MAX


def test_a_queen_that_does_not_measure_itself_lets_nothing_through() -> None:
    governor, fleet = governed()
    late = START.later(limits.API_STALE_MS + 1)
    fleet.pools[PoolId("p1")].reported_at_ms = late.mono_ms
    assert now_busy(governor, fleet, late) == BUSY_MAX
    governor.take_api(IDLE_API, late)
    assert now_busy(governor, fleet, late) == 0


def test_a_rating_says_what_makes_it() -> None:
    assert rating_at(0, 90.0).worst == "cpu_percent is 90"
    assert rate(None, IDLE_API, START).worst == "cpu_percent is missing or stale"
