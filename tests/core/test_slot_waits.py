"""When a slot of a worker should be free: by the predicted ends of what runs there, else by what is usual."""

from beeyard_core.event import CancelRequested, JobSubmitted
from beeyard_core.ids import JobId, WorkerId
from beeyard_core.slot_waits import predicted_ends, slot_wait_ms

from tests.support.apiary import Apiary
from tests.support.core_values import report_of, spec_of

W1 = WorkerId("w1")


def full(*expected_ms: int) -> Apiary:
    """A worker of which every slot is taken by a job that is expected to need so long."""
    apiary = Apiary()
    apiary.attach(report_of("w1", slots_total=len(expected_ms)))
    for number, ms in enumerate(expected_ms):
        apiary.happen(JobSubmitted(job_id=JobId(f"j{number}"), spec=spec_of()))
        apiary.state.jobs[JobId(f"j{number}")].expected_ms = ms
    return apiary


def wait_ms(apiary: Apiary) -> float:
    return slot_wait_ms(apiary.state, apiary.state.fleet.workers[W1], apiary.now)


def test_the_wait_ends_with_the_first_job_that_is_predicted_to_end() -> None:
    apiary = full(9_000, 4_000, 0)
    assert wait_ms(apiary) == 4_000.0
    apiary.advance(1_000)
    assert wait_ms(apiary) == 3_000.0
    apiary.advance(3_000)
    assert wait_ms(apiary) == 5_000.0, "one has outlasted its prediction and promises nothing"


def test_where_nothing_is_predicted_the_usual_share_of_a_slot_is_told() -> None:
    apiary = full(0, 0)
    assert wait_ms(apiary) == 0.0, "nothing was measured"
    apiary.state.forecast.observe(spec_of().model, 800.0)
    assert wait_ms(apiary) == 400.0
    apiary.happen(CancelRequested(JobId("j0")))
    worker = apiary.state.fleet.workers[W1]
    assert predicted_ends(apiary.state, worker, apiary.now) == {}


def test_there_is_no_wait_where_a_slot_is_free() -> None:
    apiary = full(9_000)
    apiary.attach(report_of("w1", slots_total=2))
    assert wait_ms(apiary) == 0.0
