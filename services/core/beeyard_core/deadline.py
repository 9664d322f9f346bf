"""The earliest that a job could end, with all doubts in its favour: what a deadline is held against at admission.

A prediction says when a job ends, as likely too early as too late, and is wide where work waits. To refuse a job takes
more: it must be all but certain that it would be too late. So only what is sure to come first counts, which is more
urgent work for its model that waits already; every slot is taken to be free at once; and every figure is two spreads
better than what was measured.
"""

from typing import Final

from beeyard_core.fleet import Fleet
from beeyard_core.forecast import Forecast
from beeyard_core.job import JobSpec

#: A figure is better than its mean by so many spreads once in forty times, were it normal.
_SPREADS: Final = 2.0


def earliest_end_ms(forecast: Forecast, spec: JobSpec, fleet: Fleet) -> int | None:
    """Return the earliest end of a job that is submitted now, in milliseconds from now.

    Within its own class a job with a deadline goes before those that have time, and one with a later deadline may be
    ahead of it only until it comes: neither counts.

    Returns:
        None: nobody serves the model at the moment, or too little was measured of it.
    """
    times, slots = forecast.times.get(spec.model), fleet.slots_total.get(spec.model, 0)
    expected = times.expect(spec) if times is not None else None
    if times is None or expected is None or not slots:
        return None
    before = sum(forecast.backlog.of(spec.model).waiting[: spec.priority - 1])
    usual = times.service.average
    # The first of them take the slots that are free at once; it starts when so many of the others have ended.
    ended = max(before + 1 - slots, 0)
    work_ms = ended * usual.mean - _SPREADS * (ended * usual.variance) ** 0.5
    own_ms = expected.service_ms - _SPREADS * expected.spread_ms
    return int(max(work_ms, 0.0) / slots + max(own_ms, 0.0))
