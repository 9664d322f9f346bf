"""What happens in a simulated yard, told as stories: each is one thing that a scheduler must get right."""

import heapq
import math

import pytest
from beeyard_queen.simulator.ledger import NEVER, Fate
from beeyard_queen.simulator.load import Load
from beeyard_queen.simulator.scenario import Result

from tests.support.scenarios import ONE_SLOT, TEN_SLOTS, coming, policy, simulated, streams

#: 10 s of work in one slot of `ONE_SLOT`.
LONG = "answer_tokens: {mean: 1000, shape: constant}"
SHORT = "answer_tokens: {mean: 50, shape: constant}"


def only(result: Result, name: str) -> int:
    """Return the number of the only job of a tenant."""
    ledger = result.ledger
    (found,) = ledger.numbers(ledger.tenant_of, ledger.tenants.numbers[name])
    return found


def test_a_job_alone_takes_its_prompt_and_its_tokens_and_nothing_else() -> None:
    fleet = ONE_SLOT.replace("1000000", "100")
    load = streams("rate_per_s: 1, prompt_tokens: {mean: 200, shape: constant}, " + LONG, jobs=1)
    ledger = simulated(fleet, load).ledger
    assert list(ledger.wait_ms) == [0]
    assert list(ledger.first_token_ms) == [2_000]
    # A thousand tokens have 999 gaps of 10 ms between them.
    assert list(ledger.total_ms) == [2_000 + 9_990]


def test_interactive_work_takes_the_slot_of_batch_work_which_goes_on_later() -> None:
    patient = coming(at_s=0, answer=1_000, classes={"batch": 1.0}, tenants={"patient": 1.0})
    urgent = coming(at_s=3, answer=50, classes={"interactive": 1.0}, tenants={"urgent": 1.0})
    result = simulated(ONE_SLOT, Load(2, (patient, urgent)))
    ledger, report = result.ledger, result.report
    batch, interactive = only(result, "patient"), only(result, "urgent")
    assert (report.preemptions, report.requeued) == (1, 1)
    # The worker stops at its next token; then the slot is free.
    assert ledger.wait_ms[interactive] == 10
    # What was generated is kept: the batch job loses the time of the other, and that of reading its prompt again.
    alone_ms, other_ms = 9_990, ledger.total_ms[interactive]
    assert alone_ms < ledger.total_ms[batch] - other_ms < alone_ms + 50
    assert report.everything.completed == 2


def test_a_worker_is_started_for_a_model_that_nobody_serves() -> None:
    fleet = ONE_SLOT.replace("workers: [{model: m}], models: []", "workers: [], models: [m]")
    result = simulated(fleet, streams(f"rate_per_s: 1, {SHORT}", jobs=1))
    assert result.report.worker_starts == 1
    assert 5_000 <= result.report.everything.wait.max_ms <= 6_000
    assert result.report.everything.completed == 1


def test_an_idle_worker_makes_room_for_a_model_that_is_wanted() -> None:
    fleet = """
    models: [{name: idle, vram_gib: 60}, {name: wanted, vram_gib: 60, load_s: 4}]
    hosts: [{name: host, gpus: [{vram_gib: 80}], workers: [{model: idle}]}]
    """
    load = streams(f"rate_per_s: 1, from_s: 2, models: {{wanted: 1}}, {SHORT}", jobs=1)
    report = simulated(fleet, load).report
    assert (report.evictions, report.worker_ends, report.worker_starts) == (1, 1, 1)
    assert report.everything.completed == 1


def test_a_burst_queues_up_and_is_worked_off() -> None:
    load = streams(
        f"rate_per_s: 40, burst: {{every_s: 60, lasts_s: 3, times: 8}}, {SHORT}", jobs=3_000
    )
    result = simulated(TEN_SLOTS, load)
    depths = [(sample.at_ms, sum(sample.waiting)) for sample in result.ledger.samples]
    at_ms, deepest = max(depths, key=lambda sample: sample[1])
    assert deepest > 50
    assert at_ms % 60_000 <= 4_000
    assert depths[-1][1] == 0
    assert result.report.everything.completed == 3_000


def test_a_flooding_tenant_takes_its_share_and_no_more() -> None:
    load = streams(
        f"rate_per_s: 30, tenants: {{ada: 1, bob: 1}}, {SHORT}",
        f"rate_per_s: 200, from_s: 5, until_s: 20, tenants: {{flood: 1}}, {SHORT}",
        jobs=4_000,
    )
    fair, fifo = (
        simulated(TEN_SLOTS, load, "platform").report,
        simulated(TEN_SLOTS, load, "fifo").report,
    )
    for name in ("ada", "bob"):
        assert fair.tenants[name].wait.p99_ms < fifo.tenants[name].wait.p99_ms / 2
    assert fair.tenants["flood"].wait.max_ms > fifo.tenants["flood"].wait.max_ms / 2
    assert fair.tenants["flood"].completed == fifo.tenants["flood"].completed


def test_a_job_that_nothing_could_ever_run_is_refused() -> None:
    load = streams(
        "rate_per_s: 5, prompt_tokens: {mean: 90000, shape: constant, most: 100000}", jobs=5
    )
    report = simulated(ONE_SLOT, load).report
    assert report.everything.refused == 5
    assert report.everything.wait.n == 0


def test_a_prompt_that_the_worker_finds_too_long_fails_at_once() -> None:
    # More than the context, and less than what is certain to be when the queen only estimates.
    load = streams(
        "rate_per_s: 5, prompt_tokens: {mean: 9000, shape: constant, most: 9000}", jobs=5
    )
    report = simulated(ONE_SLOT, load).report
    assert report.everything.failed == 5
    assert report.everything.wait.max_ms <= 1_000


CHEAPEST = """
function schedule(context)
  local job = context.queue[1]
  local worker = job and context.find_candidates(job):min_by(function(one) return one.cost_per_token end)
  if not worker then return { action = "wait" } end
  assert(job.user.geo.lat == 48.1 and worker.geo.lat == 52.5 and worker.capability == "text")
  return { action = "dispatch", job_id = job.id, worker_id = worker.id }
end
"""


def test_a_policy_sees_what_hosts_cost_and_where_jobs_and_hosts_are() -> None:
    fleet = """
    models: [{name: m, vram_gib: 10}]
    hosts:
      - {name: dear, cost_per_token: 3, gpus: [{vram_gib: 80}], workers: [{model: m}]}
      - {name: near, cost_per_token: 2, geo: {lat: 52.5, lon: 13.4}, capability: text, gpus: [{vram_gib: 80}],
         workers: [{model: m}]}
    """
    load = streams(f'rate_per_s: 1, labels: {{geo.lat: "48.1", geo.lon: "11.6"}}, {SHORT}', jobs=5)
    report = simulated(fleet, load, policy(CHEAPEST)).report
    assert report.everything.completed == 5
    assert report.fallbacks == {}


def test_a_job_that_ends_too_late_expires() -> None:
    load = streams(f"rate_per_s: 9, {LONG}, deadline: {{within_s: 15}}", jobs=5)
    report = simulated(ONE_SLOT, load).report
    assert (report.everything.completed, report.everything.expired) == (1, 4)
    assert report.everything.deadlines_met == pytest.approx(0.2)


def test_a_policy_that_never_places_anything_ends_with_jobs_unfinished() -> None:
    waits = policy("function schedule() return {action = 'wait', retry_after_ms = 60000} end")
    result = simulated(ONE_SLOT, streams(f"rate_per_s: 9, {SHORT}", jobs=7), waits)
    assert result.report.everything.unfinished == 7
    assert set(result.ledger.wait_ms) == {NEVER}
    # They waited all the time that was simulated, and that is what is reported.
    assert result.report.everything.wait.max_ms >= 590_000


def test_intents_that_the_state_does_not_allow_are_counted_by_their_reason() -> None:
    lies = policy(
        "function schedule(context)\n"
        "  local job = context.queue[1]\n"
        "  if not job then return {action = 'wait'} end\n"
        "  return {action = 'batch', actions = {\n"
        "    {action = 'dispatch', job_id = job.id, worker_id = 'nobody'},\n"
        "    {action = 'dispatch', job_id = 'nothing', worker_id = 'host-worker-01'},\n"
        "    {action = 'dispatch', job_id = job.id, worker_id = 'host-worker-01'},\n"
        "  }}\n"
        "end"
    )
    report = simulated(ONE_SLOT, streams(f"rate_per_s: 1, {SHORT}", jobs=1), lies).report
    assert report.dropped == {"JOB_NOT_FOUND": 1, "WORKER_NOT_FOUND": 1}
    assert report.everything.completed == 1


EVERY_THIRD = """
local asked = 0
function schedule(context)
  if #context.queue == 0 then return { action = "wait" } end
  asked = asked + 1
  if asked % 3 == 0 then error("the third time") end
  return platform.schedule(context)
end
"""


def test_every_third_decision_that_fails_falls_back_and_costs_no_job() -> None:
    # One job a minute: few enough failures that nobody suspends the policy.
    load = Load(10, tuple(coming(at_s=60 * number, answer=50) for number in range(10)))
    report = simulated(ONE_SLOT, load, policy(EVERY_THIRD)).report
    assert report.fallbacks == {"failed": 3}
    assert report.fallback_reasons["failed"].startswith("line 6: ")
    assert report.fallback_reasons["failed"].endswith("the third time")
    assert report.suspended_ms is None
    assert report.everything.completed == 10
    assert report.everything.wait.max_ms == 0


def test_a_policy_that_fails_too_often_is_suspended_and_the_platform_policy_goes_on() -> None:
    load = streams(f"rate_per_s: 2, {SHORT}", jobs=100)
    report = simulated(ONE_SLOT, load, policy("function schedule() error('always') end")).report
    assert report.fallbacks["failed"] == 5
    assert report.fallbacks["suspended"] > 100
    assert report.suspended_ms is not None
    assert report.suspension == "failed 5 times in 60 s"
    assert report.everything.completed == 100


def test_a_policy_that_runs_away_is_killed_and_replaced() -> None:
    runs_away = policy(
        "local asked = 0\n"
        "function schedule(context)\n"
        "  asked = asked + 1\n"
        "  if asked == 2 then while true do end end\n"
        "  return platform.schedule(context)\n"
        "end"
    )
    report = simulated(ONE_SLOT, streams(f"rate_per_s: 0.05, {SHORT}", jobs=3), runs_away).report
    assert report.fallbacks["killed"] >= 1
    assert report.everything.completed == 3


def erlang_c(servers: int, load: float) -> float:
    """Return the probability that a job of M/M/c must wait; `load` in Erlangs."""
    terms = [load**n / math.factorial(n) for n in range(servers)]
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    return last / (sum(terms) + last)


@pytest.fixture(scope="module")
def queueing() -> Result:
    """M/M/10 at 84 % of its capacity, first come first served."""
    load = streams(
        "rate_per_s: 4.25, answer_tokens: {mean: 200, shape: exponential, most: 8000}, "
        "prompt_tokens: {mean: 1, shape: constant}",
        jobs=8_000,
    )
    return simulated(ONE_SLOT.replace("slots: 1,", "slots: 10,"), load, "fifo", seed=2)


def test_fifo_serves_every_job_at_the_moment_that_the_recursion_gives(queueing: Result) -> None:
    ledger = queueing.ledger
    free_at = [0] * 10
    for job, at_ms in enumerate(ledger.at_ms):
        begins = max(at_ms, heapq.heappop(free_at))
        assert ledger.wait_ms[job] == begins - at_ms
        heapq.heappush(free_at, begins + ledger.total_ms[job] - ledger.wait_ms[job])


def test_fifo_waits_as_long_as_queueing_theory_says(queueing: Result) -> None:
    ledger, jobs = queueing.ledger, len(queueing.ledger)
    busy = zip(ledger.total_ms, ledger.wait_ms, strict=True)
    service_s = sum(total - wait for total, wait in busy) / jobs / 1_000
    offered = jobs * 1_000 / ledger.at_ms[-1] * service_s
    expected_s = erlang_c(10, offered) * service_s / (10 - offered)
    waited_s = queueing.report.everything.wait.mean_ms / 1_000
    assert waited_s == pytest.approx(expected_s, rel=0.1)
    assert queueing.report.utilization == pytest.approx(offered / 10, rel=0.01)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", ["platform", "fifo"])
def test_every_job_ends_exactly_once_and_nothing_is_lost(name: str, seed: int) -> None:
    fleet = """
    models: [{name: a, vram_gib: 30, slots: 2, load_s: 2}, {name: b, vram_gib: 50, slots: 3, load_s: 3}]
    hosts: [{name: host, count: 2, gpus: [{vram_gib: 80}], workers: [{model: a}]}]
    """
    load = streams(
        "rate_per_s: 3, tenants: {x: 1, y: 1}, classes: {interactive: 1, batch: 2}, "
        "deadline: {within_s: 30, share: 0.3}",
        "rate_per_s: 1, models: {b: 1}, classes: {background: 1}, prompt_tokens: {mean: 2000, most: 5000}",
        jobs=150,
    )
    result = simulated(fleet, load, name, seed)
    ledger, group = result.ledger, result.report.everything
    ends = (group.completed, group.refused, group.failed, group.expired, group.cancelled)
    assert sum(ends) == group.jobs == len(ledger) == 150
    assert group.unfinished == 0
    for job in range(len(ledger)):
        if ledger.fate[job] == Fate.COMPLETED:
            assert 0 <= ledger.wait_ms[job] < ledger.first_token_ms[job] <= ledger.total_ms[job]
    for groups in (result.report.classes, result.report.tenants, result.report.models):
        assert sum(one.jobs for one in groups.values()) == 150
    leased = sum(wait != NEVER for wait in ledger.wait_ms)
    assert result.report.decisions["dispatch"] == leased + result.report.requeued
    assert not result.report.dropped
