"""The pure decisions: which device, what to start and stop, how long to wait."""

from beeyard_core import limits
from beeyard_core.fleet import DesiredState, DesiredWorker
from beeyard_core.ids import ModelName, WorkerId
from beeyard_core.instant import Instant
from beeyard_core.refusal import Refusal, Refused
from beeyard_pool_manager.gpus.inventory import Device, DeviceKind
from beeyard_pool_manager.workers.backoff import RestartBackoff
from beeyard_pool_manager.workers.desired import Actual, Desired, compare
from beeyard_pool_manager.workers.device_choice import choose_device
from hypothesis import given
from hypothesis import strategies as st

NOW = Instant(1_000_000, 0)
MIB = 1 << 20


def device(uuid: str, free_bytes: int) -> Device:
    return Device(
        uuid=uuid,
        kind=DeviceKind.GPU,
        name="",
        index=0,
        vram_total_bytes=free_bytes,
        vram_used_bytes=0,
        vram_free_bytes=free_bytes,
    )


UUIDS = st.sampled_from(["GPU-a", "GPU-b", "GPU-c", "GPU-d"])
BYTES = st.integers(0, 50)


@given(
    free=st.dictionaries(UUIDS, BYTES, min_size=1),
    reserved=st.dictionaries(UUIDS, BYTES),
    required=BYTES,
    wanted=st.one_of(st.just(""), UUIDS),
)
def test_the_chosen_device_fits_and_none_that_is_allowed_has_more_room(
    free: dict[str, int], reserved: dict[str, int], required: int, wanted: str
) -> None:
    devices = [device(uuid, size) for uuid, size in free.items()]
    chosen = choose_device(
        devices, required_bytes=required, reserved_bytes=reserved, wanted_uuid=wanted
    )
    room = {u: size - reserved.get(u, 0) for u, size in free.items() if wanted in {"", u}}
    if not room:
        assert isinstance(chosen, Refused)
        assert chosen.reason is Refusal.NO_CAPACITY_INCOMPATIBLE_DEVICE_MASK
    elif required > max(0, *room.values(), 0):
        assert isinstance(chosen, Refused)
        assert chosen.reason is Refusal.NO_CAPACITY_INCOMPATIBLE_VRAM
    else:
        assert isinstance(chosen, Device)
        assert chosen.uuid == min(u for u, size in room.items() if size == max(room.values()))
        assert required <= max(0, room[chosen.uuid])


def test_a_refusal_for_memory_says_what_is_needed_and_what_there_is() -> None:
    refused = choose_device(
        [device("GPU-a", 3 * MIB)], required_bytes=5 * MIB, reserved_bytes={"GPU-a": MIB}
    )
    assert isinstance(refused, Refused)
    assert "needs 5 MiB" in refused.message
    assert "at most 2 MiB is free" in refused.message
    assert refused.metadata["needed_bytes"] == str(5 * MIB)


def wish(worker_id: str, state: DesiredState, model: str = "m") -> DesiredWorker:
    return DesiredWorker(worker_id=WorkerId(worker_id), model=ModelName(model), state=state)


RUNNING = {
    "kept": Actual(model="m", by_hand=False),
    "by-hand": Actual(model="m", by_hand=True),
}


def test_wanted_workers_start_and_unwanted_ones_stop() -> None:
    wishes = (wish("new", DesiredState.RUNNING), wish("kept", DesiredState.STOPPED))
    plan = compare(Desired(workers=wishes), RUNNING, resting=())
    assert [each.worker_id for each in plan.start] == ["new"]
    assert plan.stop == ("kept",)


def test_doing_the_same_twice_changes_nothing() -> None:
    plan = compare(Desired(workers=(wish("kept", DesiredState.RUNNING),)), RUNNING, resting=())
    assert (plan.start, plan.stop) == ((), ())


def test_an_unnamed_worker_is_left_alone_until_the_queen_is_authoritative() -> None:
    assert compare(Desired(), RUNNING, resting=()).stop == ()
    assert compare(Desired(authoritative=True), RUNNING, resting=()).stop == ("kept",)


def test_no_queen_stops_what_was_started_by_hand() -> None:
    stop_it = Desired(workers=(wish("by-hand", DesiredState.STOPPED),), authoritative=True)
    assert compare(stop_it, RUNNING, resting=()).stop == ("kept",)


def test_a_draining_worker_is_kept_and_not_started() -> None:
    wishes = (wish("kept", DesiredState.DRAINING), wish("new", DesiredState.DRAINING))
    plan = compare(Desired(workers=wishes, authoritative=True), RUNNING, resting=())
    assert (plan.start, plan.stop) == ((), ())


def test_a_worker_that_should_hold_another_model_is_stopped_first() -> None:
    wishes = (wish("kept", DesiredState.RUNNING, "other"),)
    plan = compare(Desired(workers=wishes), RUNNING, resting=())
    assert (plan.start, plan.stop) == ((), ("kept",))


def test_a_resting_worker_is_not_started() -> None:
    wishes = (wish("new", DesiredState.RUNNING),)
    assert compare(Desired(workers=wishes), {}, resting=("new",)).start == ()


def test_each_crash_doubles_the_wait_up_to_a_bound() -> None:
    backoff = RestartBackoff()
    waits = [
        backoff.failed("m", began_mono_ms=NOW.mono_ms, served_ms=0, now=NOW) for _ in range(20)
    ]
    assert waits[:3] == [1_000, 2_000, 4_000]
    assert waits[-1] == limits.RESTART_BACKOFF_MAX_MS
    assert backoff.wait_ms("m", NOW) == limits.RESTART_BACKOFF_MAX_MS
    assert backoff.wait_ms("m", NOW.later(limits.RESTART_BACKOFF_MAX_MS)) == 0
    assert backoff.wait_ms("another", NOW) == 0


def test_a_worker_that_served_long_is_replaced_at_once() -> None:
    backoff = RestartBackoff()
    backoff.failed("m", began_mono_ms=NOW.mono_ms, served_ms=0, now=NOW)
    assert (
        backoff.failed(
            "m", began_mono_ms=NOW.mono_ms, served_ms=limits.RESTART_BACKOFF_MAX_MS, now=NOW
        )
        == 0
    )
    assert (
        backoff.failed("m", began_mono_ms=NOW.mono_ms, served_ms=0, now=NOW)
        == limits.RESTART_BACKOFF_MIN_MS
    )


def test_workers_that_fail_side_by_side_are_one_failure() -> None:
    backoff = RestartBackoff()

    def failed(began_ms: int, failed_ms: int) -> int:
        began = NOW.later(began_ms).mono_ms
        return backoff.failed("m", began_mono_ms=began, served_ms=0, now=NOW.later(failed_ms))

    assert [failed(0, 3_000), failed(0, 4_000), failed(100, 6_000)] == [1_000] * 3
    # The next try; one that began between two failures of the first belongs to neither, and counts.
    assert failed(5_000, 9_000) == 2_000
