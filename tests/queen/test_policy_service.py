"""`PolicyService` over the wire: what each method answers, and how each refusal is told."""

from collections.abc import AsyncIterator

import grpc
import pytest
from beeyard.queen.v1 import policy_service_pb2 as pb
from beeyard_core import limits
from beeyard_core.instant import Instant
from beeyard_core.policy.intent import (
    Dispatch,
    Evict,
    Intent,
    Preempt,
    Reject,
    StartWorker,
    Wait,
)
from beeyard_core.refusal import Refusal, Refused
from beeyard_queen.policy.decision_feed import DecisionRecord
from beeyard_queen.policy.in_process import PLATFORM_LABEL, platform_source
from beeyard_queen.policy.starters import templates
from beeyard_queen.store.versions import digest_of

from tests.support.eventually import eventually
from tests.support.policy_service import LUA, RULES, WAITS, YAML, Service, policy_service, source
from tests.support.raw_calls import Outcome
from tests.support.told import refusal

BILLION_LAUGHS = "a: &a [x, x]\nb: &b [*a, *a]\nscheduler: *b\n"
INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")

#: What no queen deploys: the source, where it is wrong as far as that can be known, and a word of why.
HOSTILE = {
    "syntax error": (LUA, "function schedule(c)\n  return {action= end", (2, 19), "near 'end'"),
    "no schedule": (LUA, "x = 1", (0, 0), "there is no function schedule(context)"),
    "empty": (LUA, "", (0, 0), "there is no function schedule(context)"),
    "bytecode": (LUA, "\x1bLuaT\0\x19", (0, 0), "bytecode is not accepted"),
    "oversized": (LUA, "--" + "x" * limits.POLICY_SOURCE_BYTES_MAX, (0, 0), "longer than"),
    "endless at load": (LUA, "local x\nwhile true do end", (2, 0), "killed while it was loaded"),
    "endless": (LUA, "function schedule()\n while true do end end", (2, 0), "killed in the queen"),
    "memory bomb": (
        LUA,
        "local t = {}\nwhile true do t[#t + 1] = ('x'):rep(1 << 19) .. #t end",
        None,
        "",
    ),
    "lying": (LUA, "function schedule() return {action = 'fly'} end", (0, 0), "fallback in"),
    "unknown job": (
        LUA,
        "function schedule() return {action='dispatch', job_id='x', worker_id='y'} end",
        (0, 0),
        "no such job waits",
    ),
    "yaml aliases": (YAML, BILLION_LAUGHS, (1, 4), "anchors (&name) are not allowed"),
    "unknown field": (YAML, RULES.replace("rules:", "rulez:"), (3, 3), 'did you mean "rules"?'),
    "duplicated rule": (
        YAML,
        RULES + RULES[RULES.index("    - ") :],
        (7, 13),
        'the rule "rest" stands twice',
    ),
    "no yaml": (YAML, "{", None, ""),
}


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with policy_service() as service:
        yield service


# --- Deploying ---


async def test_a_deployed_policy_is_told_with_everything_about_it(service: Service) -> None:
    version = await service.deploy(WAITS % "a", name="patient", note="for a while", author="ada")
    assert (version.name, version.version, version.state) == ("patient", 1, pb.POLICY_STATE_ACTIVE)
    assert (version.note, version.author, version.suspension) == ("for a while", "ada", "")
    assert version.digest == digest_of("lua", WAITS % "a")
    assert version.source == source(WAITS % "a")
    now_ms = service.story.clock.now().wall_ms
    assert version.create_time.ToMilliseconds() == now_ms
    assert version.activate_time.ToMilliseconds() == now_ms
    assert await service.active() == version
    assert service.story.runtime.label == "patient@1"


async def test_rules_are_kept_as_they_were_written(service: Service) -> None:
    version = await service.deploy(RULES, YAML)
    assert (version.name, version.source) == ("careful", source(RULES, YAML))
    assert service.story.runtime.label == "careful@1"


@pytest.mark.parametrize("name", HOSTILE)
async def test_no_hostile_source_is_deployed(service: Service, name: str) -> None:
    language, text, place, word = HOSTILE[name]
    before = await service.deploy(WAITS % "good")
    told = await refusal(service.deploy(text, language))
    assert (told.code, told.reason, told.field) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "POLICY_INVALID",
        "source.text",
    )
    assert word in told.message
    if place is not None:
        line, column = place
        assert told.message.startswith(f"line {line}") == (line > 0)
        assert (f"column {column}: " in told.message) == (column > 0)
    assert await service.active() == before
    assert service.story.runtime.label == "policy@1"


@pytest.mark.parametrize("name", HOSTILE)
async def test_validation_finds_what_deployment_refuses(service: Service, name: str) -> None:
    language, text, place, word = HOSTILE[name]
    request = pb.ValidatePolicyRequest(source=source(text, language))
    found = await service.call.ValidatePolicy(request)
    problem = found.problems[0]
    assert problem.severity == pb.PROBLEM_SEVERITY_ERROR
    assert word in problem.message
    assert place is None or (problem.line, problem.column) == place
    does_load = "fallback" in problem.message or "killed" in problem.message
    assert (found.states_tried, bool(found.lua)) == (int(does_load), does_load)
    assert (await service.active()).version == 0


async def test_a_deployment_for_another_active_version_is_aborted(service: Service) -> None:
    await service.deploy(WAITS % "a", expected_active_version=0)
    told = await refusal(service.deploy(WAITS % "b", expected_active_version=0))
    assert (told.code, told.reason) == (grpc.StatusCode.ABORTED, "STALE_POLICY_VERSION")
    assert told.field == "expected_active_version"
    assert (await service.deploy(WAITS % "a", expected_active_version=0)).version == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "x" * (limits.POLICY_NAME_BYTES_MAX + 1)),
        ("name", "two\nlines"),
        ("author", "x" * (limits.POLICY_AUTHOR_BYTES_MAX + 1)),
        ("author", "\x1b[31m"),
        ("note", "ü" * (limits.POLICY_NOTE_BYTES_MAX // 2 + 1)),
    ],
)
async def test_what_is_said_about_a_policy_has_limits(
    service: Service, field: str, value: str
) -> None:
    request = pb.DeployPolicyRequest(source=source(WAITS % "a"))
    setattr(request, field, value)
    told = await refusal(service.call.DeployPolicy(request))
    assert (told.code, told.reason, told.field) == (*INVALID, field)


@pytest.mark.parametrize("method", ["DeployPolicy", "ValidatePolicy", "CompilePolicy"])
async def test_a_policy_says_what_it_is_written_in(service: Service, method: str) -> None:
    asked = getattr(pb, f"{method}Request")
    call = getattr(service.call, method)
    told = await refusal(call(asked()))
    assert (told.code, told.reason, told.field) == (*INVALID, "source")
    for language in (0, 99):
        told = await refusal(call(asked(source=source("x", language))))
        assert (told.code, told.reason, told.field) == (*INVALID, "source.language")


# --- Looking ---


async def test_a_good_policy_is_valid_in_every_state(service: Service) -> None:
    request = pb.ValidatePolicyRequest(source=source(RULES, YAML))
    found = await service.call.ValidatePolicy(request)
    assert list(found.problems) == []
    assert found.states_tried == 11
    assert found.decision_us_max > 0
    assert "function schedule(context)" in found.lua


async def test_versions_are_listed_newest_first_in_pages(service: Service) -> None:
    for number in range(1, 6):
        await service.deploy(WAITS % number, name="odd" if number % 2 else "even")
    assert await service.listed() == [[5, 4, 3, 2, 1]]
    assert await service.listed(page_size=2) == [[5, 4], [3, 2], [1]]
    assert await service.listed(page_size=5) == [[5, 4, 3, 2, 1]]
    assert await service.listed(page_size=2, name="odd") == [[5, 3], [1]]
    page = await service.call.ListPolicyVersions(pb.ListPolicyVersionsRequest())
    assert not any(one.HasField("source") for one in page.versions)
    states = [one.state for one in page.versions]
    assert states == [pb.POLICY_STATE_ACTIVE] + [pb.POLICY_STATE_INACTIVE] * 4


@pytest.mark.parametrize(
    ("field", "value"),
    [("page_size", -1), ("page_size", limits.LIST_PAGE_MAX + 1), ("page_token", "nonsense")],
)
async def test_a_page_has_limits(service: Service, field: str, value: object) -> None:
    request = pb.ListPolicyVersionsRequest(**{field: value})  # type: ignore[arg-type]
    told = await refusal(service.call.ListPolicyVersions(request))
    assert (told.code, told.reason, told.field) == (*INVALID, field)


async def test_at_first_the_platform_policy_is_active(service: Service) -> None:
    version = await service.active()
    assert (version.version, version.name, version.state) == (0, "platform", pb.POLICY_STATE_ACTIVE)
    assert version.source == source(platform_source())
    assert not version.HasField("create_time")
    assert await service.call.GetPlatformSource(pb.GetPlatformSourceRequest()) == version.source
    assert await service.listed() == [[]]


async def test_a_version_that_is_not_there_is_not_found(service: Service) -> None:
    for number in (-1, 1, 2**63 - 1):
        asked = pb.GetPolicyVersionRequest(version=number)
        told = await refusal(service.call.GetPolicyVersion(asked))
        assert (told.code, told.reason) == (grpc.StatusCode.NOT_FOUND, "POLICY_NOT_FOUND")
        back = pb.RollbackPolicyRequest(version=number)
        told = await refusal(service.call.RollbackPolicy(back))
        assert (told.code, told.reason) == (grpc.StatusCode.NOT_FOUND, "POLICY_NOT_FOUND")


async def test_rules_are_compiled_and_lua_comes_back_as_it_is(service: Service) -> None:
    compiled = await service.call.CompilePolicy(pb.CompilePolicyRequest(source=source(RULES, YAML)))
    assert "function schedule(context)" in compiled.lua
    same = await service.call.CompilePolicy(pb.CompilePolicyRequest(source=source("nonsense =")))
    assert (same.lua, list(same.problems)) == ("nonsense =", [])
    wrong = await service.call.CompilePolicy(
        pb.CompilePolicyRequest(source=source(RULES.replace("always", "sometimes"), YAML))
    )
    assert wrong.lua == ""
    (problem,) = wrong.problems
    assert (problem.line, problem.column) == (5, 18)
    assert problem.field == "scheduler.rules[0].condition"


async def test_the_templates_are_what_the_command_line_shows(service: Service) -> None:
    told = await service.call.ListTemplates(pb.ListTemplatesRequest())
    assert [one.name for one in told.templates] == [one.name for one in templates()]
    for wire, template in zip(told.templates, templates(), strict=True):
        assert wire.source.text == template.source
        assert wire.summary.endswith(template.use_when)


# --- Going back ---


async def test_rollback_goes_to_a_number_or_to_the_one_before(service: Service) -> None:
    await service.deploy(WAITS % "a")
    await service.deploy(WAITS % "b")
    back = await service.call.RollbackPolicy(pb.RollbackPolicyRequest())
    assert (back.version, back.state) == (1, pb.POLICY_STATE_ACTIVE)
    platform = await service.call.RollbackPolicy(pb.RollbackPolicyRequest(version=0))
    assert (platform.version, service.story.runtime.label) == (0, PLATFORM_LABEL)
    assert (await service.active()).version == 0


async def test_a_suspension_is_told(service: Service) -> None:
    await service.deploy(WAITS % "good")
    await service.deploy(WAITS % "bad")
    service.story.runtime.suspend("killed 3 times in 60 s")
    await service.story.desk.changes.settled()
    fallen = await service.call.GetPolicyVersion(pb.GetPolicyVersionRequest(version=2))
    assert fallen.state == pb.POLICY_STATE_SUSPENDED
    assert fallen.suspension == "killed 3 times in 60 s"
    assert (await service.active()).version == 1


# --- Following decisions ---


def record(intent: Intent | None, at_ms: int = 0, **facts: object) -> DecisionRecord:
    told = {"label": "mine@1", "state_version": 3, "seed": 0, "cpu_us": 7} | facts
    return DecisionRecord(at=Instant(at_ms, 1_700_000_000_000 + at_ms), intent=intent, **told)  # type: ignore[arg-type]


async def watched(
    service: Service, records: list[DecisionRecord], **wanted: object
) -> list[pb.Decision]:
    """Return what a watcher is sent of these decisions."""
    call = service.call.WatchDecisions(pb.WatchDecisionsRequest(**wanted))  # type: ignore[arg-type]
    await call.initial_metadata()
    for one in records:
        service.feed.tell(one)
    service.feed.close()
    sent: list[pb.Decision] = []

    async def read() -> None:
        async for decision in call:
            sent.append(decision)  # noqa: PERF401  what came before the error counts

    told = await refusal(read())
    assert (told.code, told.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    return sent


DISPATCH = Dispatch(job_id="j1", worker_id="w1")


async def test_each_decision_is_sent_with_what_became_of_it(service: Service) -> None:
    no = Refused(reason=Refusal.WORKER_NOT_FOUND, message="there is no such worker")
    records = [
        record(DISPATCH, 5),
        record(StartWorker(model_ref="tiny", pool_id="p", gpu_id="0"), is_fallback=True),
        record(Evict(evict_worker_id="w2", reason="idle"), refused=no),
        record(Preempt(job_id="j2", for_job_id="j1")),
        record(Reject(job_id="j3", reason="too late")),
        record(Wait(reason="nothing to do")),
        record(None, refused=Refused(reason=Refusal.POLICY_INVALID, message="no action")),
    ]
    sent = await watched(service, records)
    first = sent[0]
    assert (first.sequence, first.policy_version, first.state_version) == (1, "mine@1", 3)
    assert first.create_time.ToMilliseconds() == 1_700_000_000_005
    assert (first.applied, first.refusal, first.fallback, first.cpu_us) == (True, "", False, 7)
    assert [one.WhichOneof("intent") for one in sent] == [
        "dispatch", "start_worker", "evict", "preempt", "reject", None,
    ]  # fmt: skip
    assert [one.sequence for one in sent] == [1, 2, 3, 4, 5, 6]
    assert first.dispatch == pb.DispatchIntent(job_id="j1", worker_id="w1")
    assert sent[1].start_worker == pb.StartWorkerIntent(model="tiny", pool_id="p", gpu_id="0")
    assert sent[1].fallback
    assert sent[2].evict == pb.EvictIntent(worker_id="w2", reason="idle")
    assert (sent[2].applied, sent[2].refusal) == (
        False,
        "WORKER_NOT_FOUND: there is no such worker",
    )
    assert sent[3].preempt == pb.PreemptIntent(job_id="j2", for_job_id="j1")
    assert sent[4].reject == pb.RejectIntent(job_id="j3", reason="too late")


async def test_decisions_to_wait_are_sent_once_a_second(service: Service) -> None:
    waits = [record(Wait(reason=str(ms), retry_after_ms=9), ms) for ms in range(0, 3_000, 400)]
    sent = await watched(service, waits, include_waits=True)
    assert [one.wait.reason for one in sent] == ["0", "1200", "2400"]
    assert sent[0].wait.retry_after_ms == 9


async def test_decisions_about_one_job_are_numbered_for_themselves(service: Service) -> None:
    records = [
        record(Dispatch(job_id="other", worker_id="w1")),
        record(DISPATCH),
        record(Wait()),
        record(Preempt(job_id="other", for_job_id="j1")),
        record(Evict(evict_worker_id="w1")),
        record(Reject(job_id="j1")),
    ]
    sent = await watched(service, records, job_id="j1", include_waits=True)
    assert [(one.sequence, one.WhichOneof("intent")) for one in sent] == [
        (1, "dispatch"),
        (2, "preempt"),
        (3, "reject"),
    ]


async def test_a_slow_watcher_sees_the_gap(service: Service) -> None:
    many = limits.DECISIONS_UNREAD_MAX + 7
    # All are told at once, before the watcher gets a turn.
    sent = await watched(service, [record(DISPATCH)] * many)
    assert [one.sequence for one in sent] == list(range(8, many + 1))


async def test_a_watcher_that_goes_away_is_forgotten(service: Service) -> None:
    call = service.call.WatchDecisions(pb.WatchDecisionsRequest())
    await call.initial_metadata()
    assert service.feed.is_watched
    call.cancel()
    await eventually(lambda: not service.feed.is_watched, "it is forgotten")


# --- What else goes wrong ---


async def test_in_platform_mode_everything_but_a_change_is_answered() -> None:
    async with policy_service("platform") as service:
        for told in (
            await refusal(service.deploy(WAITS % "a")),
            await refusal(service.call.RollbackPolicy(pb.RollbackPolicyRequest(version=0))),
        ):
            assert told.code is grpc.StatusCode.FAILED_PRECONDITION
            assert told.reason == "POLICY_IMMUTABLE"
        request = pb.ValidatePolicyRequest(source=source(WAITS % "a"))
        assert not (await service.call.ValidatePolicy(request)).problems


async def test_a_store_that_is_away_is_told_and_nothing_changes(service: Service) -> None:
    await service.deploy(WAITS % "a")
    service.story.store.fail_next_commits(2)
    for told in (
        await refusal(service.deploy(WAITS % "b")),
        await refusal(service.call.RollbackPolicy(pb.RollbackPolicyRequest(version=0))),
    ):
        assert (told.code, told.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        assert told.retry_after_ms is not None
    assert (await service.active()).version == 1
    assert service.story.runtime.label == "policy@1"


async def test_a_sandbox_that_is_gone_is_told_without_its_workings(service: Service) -> None:
    await (await service.story.sandbox.zygote()).stop()
    told: Outcome = await refusal(service.deploy(WAITS % "a"))
    assert (told.code, told.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert told.message.startswith("the policy sandbox does not work now")
