"""What holds in every history: random events, honest and hostile workers, restarts at any moment.

Every single step is checked by the apiary as well: invariants of the state, a mirror equal to it, and nothing
promised that is not durable.
"""

from collections import Counter

from beeyard_core.effect import AnnounceEnded, Effect, Offer
from beeyard_core.fleet import WorkerState
from beeyard_core.ids import JobId, ModelName
from beeyard_core.job import Priority
from beeyard_core.placement import exclusion

from tests.support.histories import Player, as_often_as_is_fast, in_every_history


@as_often_as_is_fast
@in_every_history
def test_every_accepted_job_ends_in_exactly_one_terminal_state(
    history: list[tuple[int, int]],
) -> None:
    player = Player().play(history)
    player.calm_down()
    assert Counter(player.ended) == Counter(dict.fromkeys(player.accepted, 1))
    durable = player.apiary.durable
    assert set(durable) == set(player.accepted)
    assert all(job.is_ended for job in durable.values())


@as_often_as_is_fast
@in_every_history
def test_no_slot_and_no_kv_memory_is_promised_twice(history: list[tuple[int, int]]) -> None:
    def check(player: Player, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Offer):
                worker = player.apiary.state.fleet.workers[effect.worker_id]
                assert len(worker.leases) <= worker.report.slots_total
                # A job whose estimate exceeds everything gets the memory to itself.
                fits = worker.kv_tokens_used <= worker.report.kv_tokens_total
                assert fits or len(worker.leases) == 1

    Player(after_each=check).play(history)


@as_often_as_is_fast
@in_every_history
def test_a_worker_that_closes_slots_is_never_negative_and_gets_nothing_beyond_them(
    history: list[tuple[int, int]],
) -> None:
    def check(player: Player, effects: list[Effect]) -> None:
        fleet = player.apiary.state.fleet
        offered = {effect.worker_id for effect in effects if isinstance(effect, Offer)}
        for worker_id, worker in fleet.workers.items():
            assert worker.slots_free == max(worker.report.slots_total - len(worker.leases), 0)
            assert worker_id not in offered or len(worker.leases) <= worker.report.slots_total
        totals: Counter[ModelName] = Counter()
        for worker in fleet.workers.values():
            totals[worker.report.model] += worker.report.slots_total
        assert {model: n for model, n in fleet.slots_total.items() if n} == +totals

    Player(after_each=check).play(history)


@as_often_as_is_fast
@in_every_history
def test_no_job_is_offered_again_while_it_is_held_or_after_it_ended(
    history: list[tuple[int, int]],
) -> None:
    ended: set[JobId] = set()

    def check(player: Player, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Offer):
                job_id = player.apiary.state.leases[effect.lease_id].job_id
                assert job_id not in ended
                leases = player.apiary.state.leases.values()
                assert sum(each.job_id == job_id and each.is_current for each in leases) == 1
            if isinstance(effect, AnnounceEnded):
                assert effect.job_id not in ended
                ended.add(effect.job_id)

    Player(after_each=check).play(history)


@as_often_as_is_fast
@in_every_history
def test_epochs_only_grow_also_over_restarts(history: list[tuple[int, int]]) -> None:
    player = Player().play(history)
    epochs = [grant.epoch for grant in player.grants]
    assert epochs == sorted(set(epochs))


@as_often_as_is_fast
@in_every_history
def test_no_job_waits_while_a_worker_could_take_it(history: list[tuple[int, int]]) -> None:
    def check(player: Player, _effects: list[Effect]) -> None:
        state, now_ms = player.apiary.state, player.apiary.now.mono_ms
        if state.is_draining:
            return
        for priority in Priority:
            for model in state.queue.models(priority):
                for job in state.queue.heads(priority, model):
                    for worker in state.fleet.workers.values():
                        assert exclusion(job.spec, state.fleet, worker, now_ms) is not None

    Player(after_each=check).play(history)


@as_often_as_is_fast
@in_every_history
def test_jobs_of_one_kind_start_in_the_order_of_their_acceptance(
    history: list[tuple[int, int]],
) -> None:
    def check(player: Player, effects: list[Effect]) -> None:
        state = player.apiary.state
        for effect in effects:
            if isinstance(effect, Offer):
                given_to = state.jobs[state.leases[effect.lease_id].job_id]
                for job in state.jobs.values():
                    if job.job_id in state.queue and job.spec.shape == given_to.spec.shape:
                        same_class = job.spec.priority is given_to.spec.priority
                        # A job with a deadline comes before those that have time.
                        is_urgent = given_to.spec.deadline_ms is not None
                        assert is_urgent or not same_class or job.sequence > given_to.sequence

    Player(after_each=check).play(history)


@as_often_as_is_fast
@in_every_history
def test_a_refused_job_is_never_heard_of_again(history: list[tuple[int, int]]) -> None:
    player = Player().play(history)
    refused = set(player.refused)
    assert not refused & set(player.accepted)
    assert not refused & {grant.job_id for grant in player.grants}
    assert not refused & set(player.ended)
    assert not refused & set(player.apiary.durable)


@as_often_as_is_fast
@in_every_history
def test_the_same_history_has_the_same_effects(history: list[tuple[int, int]]) -> None:
    assert Player().play(history).apiary.effects == Player().play(history).apiary.effects


@as_often_as_is_fast
@in_every_history
def test_an_excluded_worker_gets_nothing(history: list[tuple[int, int]]) -> None:
    """Drained, silent, stale or starting: no offer goes there."""

    def check(player: Player, effects: list[Effect]) -> None:
        state, now_ms = player.apiary.state, player.apiary.now.mono_ms
        for effect in effects:
            if isinstance(effect, Offer):
                worker = state.fleet.workers[effect.worker_id]
                assert worker.session
                assert not worker.is_drained
                assert state.fleet.is_fresh(worker, now_ms)
                assert worker.report.state in (WorkerState.READY, WorkerState.BUSY)

    Player(after_each=check).play(history)
