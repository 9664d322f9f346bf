"""The life of a policy: handed in, kept, deciding, taken back, suspended; in real hosts."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from beeyard_core import limits
from beeyard_core.refusal import Refusal
from beeyard_queen.policy.desk import Deployment
from beeyard_queen.policy.in_process import PLATFORM_LABEL, platform_source
from beeyard_queen.policy.turns import Turns
from beeyard_queen.store.versions import Draft, Language, VersionFilter
from beeyard_runtime.rpc_errors import RpcRefusal

from tests.support.desk_story import Story, desk_story
from tests.support.eventually import eventually

WAITS = "function schedule(context) return {action = 'wait', reason = '%s'} end"
# Good in every world on which it is tried, and broken once the world has a tenant of this name.
FAILS_LATER = """
function schedule(context)
  for _, tenant in ipairs(context.tenants) do
    if tenant.id == "trouble" then %s end
  end
  return {action = "wait", reason = "fine"}
end
"""
RULES = """\
scheduler:
  name: %s
  rules:
    - name: rest
      condition: always
      action: {wait: {duration_ms: 5}}
"""


def waits(reason: str, **options: object) -> Deployment:
    return Deployment(language="lua", text=WAITS % reason, **options)  # type: ignore[arg-type]


@pytest.fixture
async def story() -> AsyncIterator[Story]:
    async with desk_story() as story:
        yield story


async def refused(answer: object) -> Refusal:
    with pytest.raises(RpcRefusal) as caught:
        await answer  # type: ignore[misc]
    return caught.value.refused.reason


# --- Deploying ---


async def test_a_deployed_policy_decides(story: Story) -> None:
    row = await story.desk.deploy(waits("mine", name="patient", author="ada", note="for a while"))
    assert (row.version, row.name, row.author, row.note) == (1, "patient", "ada", "for a while")
    assert row.is_active
    assert row.activated_ms == story.clock.now().wall_ms
    assert story.runtime.label == "patient@1"
    ruling = await story.runtime.decide()
    assert ruling is not None
    assert ruling.reply.decisions == ({"action": "wait", "reason": "mine"},)


@pytest.mark.parametrize(
    ("language", "text", "named", "name"),
    [
        ("lua", WAITS % "", "", "policy"),
        ("lua", WAITS % "", "given", "given"),
        ("yaml", RULES % "careful", "", "careful"),
        ("yaml", RULES % "careful", "given", "given"),
    ],
)
async def test_a_policy_has_the_name_that_it_is_given_or_gives_itself(
    story: Story, language: Language, text: str, named: str, name: str
) -> None:
    row = await story.desk.deploy(Deployment(language=language, text=text, name=named))
    assert row.name == name
    assert (row.language, row.text) == (language, text)


@pytest.mark.parametrize(
    "text", ["function schedule(c) return {action= end", "x = 1", "while true do end", "\x1bLua"]
)
async def test_a_policy_with_an_error_changes_nothing(story: Story, text: str) -> None:
    await story.desk.deploy(waits("good"))
    with pytest.raises(RpcRefusal) as caught:
        await story.desk.deploy(Deployment(language="lua", text=text))
    assert caught.value.refused.reason is Refusal.POLICY_INVALID
    assert await story.states() == [(1, True, "")]
    assert story.runtime.label == "policy@1"


async def test_an_error_names_line_column_and_rule(story: Story) -> None:
    wrong = Deployment(language="yaml", text=(RULES % "x").replace("always", "sometimes"))
    with pytest.raises(RpcRefusal) as caught:
        await story.desk.deploy(wrong)
    told = caught.value.refused
    assert told.message.startswith("line 5, column 18: ")
    assert (told.field, dict(told.metadata)) == (
        "source.text",
        {"line": "5", "column": "18", "rule": "scheduler.rules[0].condition"},
    )


async def test_it_is_tried_on_the_queens_present_world(story: Story) -> None:
    text = "function schedule(c) return c.now_ms == 77 and error('now') or {action = 'wait'} end"
    story.runtime.world = replace(story.runtime.world, now_ms=77)
    with pytest.raises(RpcRefusal, match="fallback in the queen's present world: now"):
        await story.desk.deploy(Deployment(language="lua", text=text))


async def test_the_source_that_is_active_is_its_version(story: Story) -> None:
    first = await story.desk.deploy(waits("a", name="first"))
    again = await story.desk.deploy(waits("a", name="second", expected_active=99))
    assert again == first
    assert story.runtime.loads == ["first@1"]


async def test_a_known_source_becomes_active_under_its_old_number(story: Story) -> None:
    await story.desk.deploy(waits("a", name="first"))
    await story.desk.deploy(waits("b", name="second"))
    again = await story.desk.deploy(waits("a", name="third"))
    assert (again.version, again.name, story.runtime.label) == (1, "first", "first@1")


async def test_a_deployment_for_another_active_version_is_stale(story: Story) -> None:
    await story.desk.deploy(waits("a", expected_active=0))
    with pytest.raises(RpcRefusal) as caught:
        await story.desk.deploy(waits("b", expected_active=0))
    assert caught.value.refused.reason is Refusal.STALE_POLICY_VERSION
    assert caught.value.refused.metadata["active_version"] == "1"
    assert (await story.desk.deploy(waits("b", expected_active=1))).version == 2


async def test_of_two_that_expect_the_same_one_wins(story: Story) -> None:
    both = (story.desk.deploy(waits(reason, expected_active=0)) for reason in "ab")
    told = await asyncio.gather(*both, return_exceptions=True)
    assert sorted(type(one).__name__ for one in told) == ["RpcRefusal", "VersionRow"]
    assert len(await story.states()) == 1


async def test_deployments_at_once_are_kept_one_after_the_other(story: Story) -> None:
    rows = await asyncio.gather(*(story.desk.deploy(waits(str(n))) for n in range(4)))
    assert sorted(row.version for row in rows) == [1, 2, 3, 4]
    active = await story.desk.version(None)
    assert story.runtime.label == f"policy@{active.version}" == story.runtime.loads[-1]


async def test_a_caller_that_goes_away_leaves_no_half_change(story: Story) -> None:
    await story.desk.deploy(waits("a"))
    for turns in range(40):
        call = asyncio.create_task(story.desk.rollback(turns % 2))
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait((call,))
        await story.desk.changes.settled()
        active = await story.active()
        assert story.runtime.label == (f"policy@{active}" if active else PLATFORM_LABEL)


async def test_a_version_that_cannot_be_swapped_in_is_taken_back(story: Story) -> None:
    await story.desk.deploy(waits("a"))
    story.runtime.refusing = "no process could be forked"
    with pytest.raises(RpcRefusal, match="policy@1 goes on: no process could be forked"):
        await story.desk.deploy(waits("b"))
    assert story.runtime.label == "policy@1"
    fault = "it could not be swapped in: no process could be forked"
    assert await story.states() == [(2, False, fault), (1, True, "")]


# --- Going back ---


async def test_rollback_goes_to_a_number_or_to_the_one_before(story: Story) -> None:
    for reason in "abc":
        await story.desk.deploy(waits(reason))
    assert (await story.desk.rollback(1)).version == 1
    assert story.runtime.label == "policy@1"
    assert (await story.desk.rollback(1)).version == 1
    # Without a number it undoes the last change, whatever that was.
    assert (await story.desk.rollback(None)).version == 3
    assert (await story.desk.rollback(None)).version == 1
    assert story.runtime.label == "policy@1"


async def test_number_0_is_the_platform_policy(story: Story) -> None:
    await story.desk.deploy(waits("a"))
    row = await story.desk.rollback(0)
    assert (row.version, row.name, row.text) == (0, "platform", platform_source())
    assert story.runtime.label == PLATFORM_LABEL
    assert await story.active() == 0
    assert (await story.desk.rollback(None)).version == 1


async def test_what_is_not_there_is_not_found(story: Story) -> None:
    assert await refused(story.desk.rollback(None)) is Refusal.POLICY_NOT_FOUND
    assert await refused(story.desk.rollback(7)) is Refusal.POLICY_NOT_FOUND
    assert await refused(story.desk.rollback(-1)) is Refusal.POLICY_NOT_FOUND
    assert await refused(story.desk.version(7)) is Refusal.POLICY_NOT_FOUND
    assert await story.active() == 0


# --- Suspension ---


@pytest.mark.parametrize("how", ["error('broken')", "while true do end"])
async def test_a_policy_that_fails_too_often_is_replaced_by_the_last_good_one(
    story: Story, how: str
) -> None:
    await story.desk.deploy(waits("good", name="good"))
    await story.desk.deploy(Deployment(language="lua", text=FAILS_LATER % how, name="bad"))
    await story.fail_until_suspended()
    (bad, good) = await story.desk.versions(VersionFilter())
    assert (bad.is_active, good.is_active, good.suspension) == (False, True, "")
    assert bad.suspension in {"killed 3 times in 60 s", "failed 5 times in 60 s"}
    assert story.runtime.label == "good@1"
    assert (await story.desk.rollback(2)).suspension == ""


async def test_without_a_good_one_the_platform_policy_decides(story: Story) -> None:
    await story.desk.deploy(Deployment(language="lua", text=FAILS_LATER % "error('broken')"))
    await story.fail_until_suspended()
    assert await story.active() == 0
    assert story.runtime.label == PLATFORM_LABEL


async def test_a_suspended_version_is_not_what_rollback_returns_to(story: Story) -> None:
    await story.desk.deploy(waits("good", name="good"))
    await story.desk.deploy(Deployment(language="lua", text=FAILS_LATER % "error('broken')"))
    await story.fail_until_suspended()
    assert (await story.desk.rollback(None)).version == 0


async def test_a_good_one_that_does_not_load_any_more_is_passed_over(story: Story) -> None:
    await story.desk.deploy(waits("good", name="good"))
    await story.desk.deploy(waits("bad", name="bad"))
    story.runtime.refusing = "no memory"
    story.runtime.suspend("killed 3 times in 60 s")
    await story.desk.changes.settled()
    assert story.runtime.loads[-1] == "good@1"
    assert await story.states() == [
        (2, False, "killed 3 times in 60 s"),
        (1, False, "it did not load again: no memory"),
    ]
    assert (await story.active(), story.runtime.label) == (0, PLATFORM_LABEL)


async def test_a_suspension_is_remembered_once_the_store_is_back(story: Story) -> None:
    await story.desk.deploy(waits("good", name="good"))
    await story.desk.deploy(waits("bad", name="bad"))
    story.store.fail_next_commits(2)
    story.runtime.suspend("killed 3 times in 60 s")
    for _ in range(2):
        await eventually(lambda: story.clock.sleepers, "it waits for the store")
        assert story.runtime.label == PLATFORM_LABEL
        await story.clock.advance(limits.RECONNECT_MAX_MS)
    await story.desk.changes.settled()
    assert story.runtime.label == "good@1"
    assert await story.states() == [(2, False, "killed 3 times in 60 s"), (1, True, "")]


async def test_a_suspension_that_comes_too_late_changes_nothing(story: Story) -> None:
    await story.desk.deploy(waits("a"))
    await story.desk.deploy(waits("b"))
    story.runtime.label = "policy@1"
    story.runtime.suspend("killed 3 times in 60 s")
    await story.desk.changes.settled()
    assert await story.states() == [(2, True, ""), (1, False, "")]


# --- Restarts and modes ---


async def test_the_active_version_decides_again_after_a_restart(story: Story) -> None:
    await story.desk.deploy(waits("a", name="kept"))
    story.runtime.use_platform()
    await story.at("lab").open()
    assert story.runtime.label == "kept@1"
    ruling = await story.runtime.decide()
    assert ruling is not None
    assert ruling.reply.decisions[0]["reason"] == "a"


@pytest.mark.parametrize("language", ["lua", "yaml"])
async def test_what_does_not_load_after_a_restart_is_suspended(
    story: Story, language: Language
) -> None:
    draft = Draft(name="old", language=language, text="nonsense =", author="", note="")
    await story.store.policies.deploy(draft, at_ms=1)
    await story.at("lab").open()
    assert (await story.active(), story.runtime.label) == (0, PLATFORM_LABEL)
    ((_, _, suspension),) = await story.states()
    assert suspension.startswith("it did not load when the queen started: line 1")


async def test_platform_mode_takes_no_policy_and_sets_the_active_one_aside(story: Story) -> None:
    await story.desk.deploy(waits("a"))
    story.runtime.use_platform()
    desk = story.at("platform")
    await desk.open()
    assert (await story.active(), story.runtime.label) == (0, PLATFORM_LABEL)
    assert await refused(desk.deploy(waits("b"))) is Refusal.POLICY_IMMUTABLE
    assert await refused(desk.rollback(1)) is Refusal.POLICY_IMMUTABLE
    assert await refused(desk.rollback(0)) is Refusal.POLICY_IMMUTABLE
    assert (await desk.validate("lua", WAITS % "b")).error is None
    await story.at("lab").open()
    assert (await story.desk.rollback(None)).version == 1


# --- The line before it ---


async def test_the_line_of_those_who_wait_to_be_tried_is_short() -> None:
    turns, seated = Turns(), asyncio.Event()

    async def sit() -> None:
        async with turns.turn():
            await seated.wait()

    most = limits.POLICY_VALIDATIONS_MAX + limits.POLICY_VALIDATIONS_WAITING_MAX
    there = [asyncio.create_task(sit()) for _ in range(most)]
    await asyncio.sleep(0)
    with pytest.raises(RpcRefusal) as caught:
        await sit()
    assert caught.value.refused.reason is Refusal.QUEUE_FULL_REJECT
    assert caught.value.refused.retry_after_ms == limits.POLICY_VALIDATION_RETRY_MS
    there[-1].cancel()
    await asyncio.wait(there[-1:])
    seated.set()
    await asyncio.gather(*there[:-1], sit())
