"""`beeyard policy` as a person types it, against a real desk."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from beeyard_core import limits
from beeyard_core.choice import Score
from beeyard_core.policy.intent import Dispatch, Evict, Intent, Wait
from beeyard_core.refusal import Refusal, Refused
from beeyard_queen.policy.considered import Considered
from beeyard_queen.policy.decision_feed import DecisionRecord
from beeyard_queen.policy.in_process import platform_source

from tests.support.command import beeyard, start
from tests.support.eventually import eventually
from tests.support.policy_service import RULES, WAITS, Service, policy_service

BROKEN = "function schedule(c)\n return {action= end"


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with policy_service() as service:
        yield service


def written(folder: Path, text: str, name: str = "policy.lua") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


async def test_deploy_show_list_and_rollback(service: Service, tmp_path: Path) -> None:
    first = written(tmp_path, WAITS % "a")
    ended = await beeyard(
        "policy", "deploy", first, "--name", "first", "--note", "to try", queen=service.address
    )
    assert (ended.code, ended.stdout) == (0, "first@1 is active\n")
    rules = written(tmp_path, RULES, "rules.yaml")
    ended = await beeyard(
        "policy", "deploy", rules, "--expect", "1", "--json", queen=service.address
    )
    told = ended.json()
    assert (told["version"], told["name"], told["state"]) == (2, "careful", "ACTIVE")
    ended = await beeyard("policy", "list", queen=service.address)
    assert ended.code == 0
    assert "to try" in ended.stdout
    listed = (await beeyard("policy", "list", "--json", queen=service.address)).json()["versions"]
    assert isinstance(listed, list)
    assert [(one["version"], one["state"]) for one in listed] == [(2, "ACTIVE"), (1, "INACTIVE")]
    ended = await beeyard("policy", "show", queen=service.address)
    assert ended.stdout.startswith("policy       careful@2\n")
    assert ended.stdout.endswith("\n\n" + RULES)
    ended = await beeyard("policy", "show", "1", "--source", queen=service.address)
    assert ended.stdout == WAITS % "a" + "\n"
    ended = await beeyard("policy", "show", "0", "--json", queen=service.address)
    assert ended.json()["source"] == {"language": "lua", "text": platform_source()}
    ended = await beeyard("policy", "rollback", queen=service.address)
    assert (ended.code, ended.stdout) == (0, "first@1 is active\n")
    ended = await beeyard("policy", "rollback", "0", "--json", queen=service.address)
    assert ended.json()["version"] == 0


async def test_nothing_deployed_is_said(service: Service) -> None:
    ended = await beeyard("policy", "list", queen=service.address)
    assert ended.stdout == "nothing was deployed; the platform policy decides\n"


@pytest.mark.parametrize(
    ("name", "text", "place", "word"),
    [
        ("policy.lua", BROKEN, ":2:18: ", "unexpected symbol near 'end'"),
        ("policy.lua", "while true do end", ":1: ", "killed while it was loaded"),
        ("policy.lua", "x = 1", ": ", "there is no function schedule(context)"),
        ("policy.yaml", RULES.replace("rules:", "rulez:"), ":3:3: ", 'did you mean "rules"?'),
    ],
)
async def test_a_fault_is_told_where_an_editor_finds_it(
    service: Service, tmp_path: Path, name: str, text: str, place: str, word: str
) -> None:
    file = written(tmp_path, text, name)
    ended = await beeyard("policy", "deploy", file, queen=service.address)
    assert (ended.code, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"beeyard: {file}{place}")
    assert word in ended.stderr
    assert ended.stderr.count("\n") == 1
    error = (await beeyard("policy", "deploy", file, "--json", queen=service.address)).json()[
        "error"
    ]
    assert isinstance(error, dict)
    assert error["reason"] == "POLICY_INVALID"


async def test_refusals_say_what_to_do(service: Service, tmp_path: Path) -> None:
    file = written(tmp_path, WAITS % "a")
    ended = await beeyard("policy", "show", "7", queen=service.address)
    assert ended.code == 1
    assert ended.stderr.endswith('"beeyard policy list" shows the versions that the queen keeps\n')
    ended = await beeyard("policy", "deploy", file, "--expect", "3", queen=service.address)
    assert (ended.code, ended.stdout) == (1, "")
    assert '"beeyard policy show" shows the active one' in ended.stderr
    async with policy_service("platform") as platform:
        ended = await beeyard("policy", "deploy", file, queen=platform.address)
    assert ended.code == 1
    assert "start it with --policy-mode lab" in ended.stderr


@pytest.mark.parametrize(
    ("raw", "code", "word"),
    [
        (None, 2, "No such file"),
        (b"\xff\xfe", 1, "byte 1 is not UTF-8"),
        (b"-" * (1 << 20), 1, "is longer than 262144 bytes"),
    ],
)
async def test_a_file_that_is_no_policy_is_one_line(
    service: Service, tmp_path: Path, raw: bytes | None, code: int, word: str
) -> None:
    file = tmp_path / "policy.lua"
    if raw is not None:
        file.write_bytes(raw)
    ended = await beeyard("policy", "deploy", str(file), queen=service.address)
    assert (ended.code, ended.stdout) == (code, "")
    assert word in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["deploy"],
        ["dance"],
        ["show", "one"],
        ["list", "--limit", "0"],
        ["deploy", "x.lua", "--watch", "--expect", "1"],
    ],
)
async def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert (await beeyard("policy", *arguments)).code == 2


async def test_watch_deploys_each_change_and_keeps_what_is_good(
    service: Service, tmp_path: Path
) -> None:
    file = written(tmp_path, WAITS % "a")
    process = await start("policy", "deploy", file, "--watch", queen=service.address)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        assert await process.stdout.readline() == b"policy@1 is active\n"
        written(tmp_path, BROKEN)
        refused = (await process.stderr.readline()).decode()
        assert refused.startswith(f"beeyard: {file}:2:18: ")
        assert await process.stderr.readline() == b"beeyard: policy@1 stays active\n"
        assert service.story.runtime.label == "policy@1"
        # Many editors write another file and rename it.
        Path(written(tmp_path, WAITS % "b", "new")).rename(file)  # noqa: ASYNC240
        assert await process.stdout.readline() == b"policy@2 is active\n"
        assert service.story.runtime.label == "policy@2"
    finally:
        process.terminate()
        await process.wait()


async def test_watch_tells_a_program_as_json(service: Service, tmp_path: Path) -> None:
    file = written(tmp_path, BROKEN)
    process = await start("policy", "deploy", file, "--watch", "--json", queen=service.address)
    assert process.stdout is not None
    try:
        refused = json.loads(await process.stdout.readline())
        assert refused["error"]["reason"] == "POLICY_INVALID"
        written(tmp_path, WAITS % "a")
        assert json.loads(await process.stdout.readline())["version"] == 1
    finally:
        process.terminate()
        await process.wait()


SCORE = Score(
    admission_ms=0.0, first_token_ms=200.0, decode_ms=1_100.0, answer_tokens=40, is_measured=True
)
#: How the workers looked to the one placement.
SEEN = (
    Considered("w1", "p", True, "", "", SCORE, 0),
    Considered("w2", "p", False, "", "", None, 0),
    Considered("w3", "p", False, "WORKER_BUSY", "all slots are taken", SCORE, 7),
)


async def decisions_of(
    service: Service, *arguments: str, lose: int = 0
) -> tuple[int, list[str], str]:
    """Run `policy watch` while a few decisions are made; return its code, lines and complaints."""
    process = await start("policy", "watch", *arguments, queen=service.address)
    await eventually(lambda: service.feed.is_watched or process.returncode, "it watches")
    no = Refused(reason=Refusal.WORKER_NOT_FOUND, message="there is no such worker")
    told: list[tuple[Intent, Refused | None]] = [
        (Dispatch(job_id="j1", worker_id="w1"), None),
        (Evict(evict_worker_id="w2"), no),
        (Wait(reason="nothing to do"), None),
    ]
    for intent, refused in told + told[:1] * lose:
        now = service.story.clock.now()
        service.feed.tell(
            DecisionRecord(
                at=now,
                label="mine@1",
                state_version=1,
                seed=0,
                intent=intent,
                refused=refused,
                considered=SEEN if isinstance(intent, Dispatch) else (),
            )
        )
    service.feed.close()
    stdout, stderr = await process.communicate()
    assert process.returncode is not None
    return process.returncode, stdout.decode().splitlines(), stderr.decode()


async def test_decisions_are_told_as_they_are_made(service: Service) -> None:
    code, lines, complaint = await decisions_of(service)
    assert code == 1
    assert "the queen is shutting down" in complaint
    assert [line.split(" ", 2)[2] for line in lines] == [
        "mine@1 dispatch j1 to w1; done; w1 1.3 s, w2 unknown, w3 WORKER_BUSY",
        "mine@1 evict w2; not done: WORKER_NOT_FOUND: there is no such worker",
    ]


async def test_decisions_are_told_to_a_program_as_json(service: Service) -> None:
    _, lines, _ = await decisions_of(service, "--waits", "--json")
    told = [json.loads(line) for line in lines[:3]]
    assert [one["intent"]["action"] for one in told] == ["dispatch", "evict", "wait"]
    assert told[1]["refusal"] == "WORKER_NOT_FOUND: there is no such worker"
    assert [one["sequence"] for one in told] == [1, 2, 3]
    first = told[0]["candidates"][0]
    assert (first["worker_id"], first["chosen"], first["answer_tokens"]) == ("w1", True, 40)
    assert first["answer_measured"]
    assert [len(one["candidates"]) for one in told] == [3, 0, 0]


async def test_lost_decisions_are_said(service: Service) -> None:
    _, lines, _ = await decisions_of(service, lose=limits.DECISIONS_UNREAD_MAX)
    assert lines[0] == "... 2 decisions were lost on the way"
