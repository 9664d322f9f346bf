"""`beeyard policy simulate` and `diff`, run as a person runs them."""

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from beeyard_queen.simulator.commands import diff, simulate

from tests.support.scenarios import ONE_SLOT

MODULE = "beeyard_queen.policy"  # what `beeyard policy` becomes
GOLDEN = Path(__file__).parent / "golden" / "tiny.json"
LOAD = """\
jobs: 12
streams:
  - rate_per_s: 2
    classes: {interactive: 1, batch: 1}
    tenants: {ada: 1, bob: 1}
    prompt_tokens: {mean: 300}
    answer_tokens: {mean: 60}
    deadline: {within_s: 6, share: 0.5}
"""
POLICY = """
function schedule(context)
  local job = context.queue[1]
  local worker = job and context.find_worker(job.model_ref)
  if not worker then return {action = "wait", reason = "nothing to do"} end
  return {action = "dispatch", job_id = job.id, worker_id = worker.id}
end
"""


async def process(*arguments: str | Path, seed: str) -> str:
    """Run a command in a process of its own, whose sets have an order of their own; return what it prints."""
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", MODULE, *map(str, arguments),
        stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONHASHSEED": seed},
    )  # fmt: skip
    out, _ = await started.communicate()
    assert started.returncode == 0
    return out.decode()


Beeyard = Callable[..., tuple[int, str, str]]


@pytest.fixture
def beeyard(capsys: pytest.CaptureFixture[str]) -> Beeyard:
    """Return what runs a command here and gives back its exit code, its output and its complaints."""

    def run(command: str, *arguments: str | Path) -> tuple[int, str, str]:
        try:
            code = {"simulate": simulate, "diff": diff}[command]([str(one) for one in arguments])
        except SystemExit as usage:
            code = int(usage.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def yard(tmp_path: Path) -> list[str]:
    """Options that name a small fleet and load."""
    (tmp_path / "fleet.yaml").write_text(ONE_SLOT.replace("slots: 1,", "slots: 2,"))
    (tmp_path / "load.yaml").write_text(LOAD)
    (tmp_path / "policy.lua").write_text(POLICY)
    return ["--fleet", str(tmp_path / "fleet.yaml"), "--load", str(tmp_path / "load.yaml")]


async def test_the_same_request_gives_the_same_report_byte_for_byte(
    yard: list[str], tmp_path: Path
) -> None:
    for name in ("platform", "fair-share", tmp_path / "policy.lua"):
        told = [
            json.loads(await process("simulate", name, *yard, "--json", seed=seed))
            for seed in ("1", "2")
        ]
        first, second = (json.dumps(one["reports"]) for one in told)
        assert first == second
        assert told[0]["reports"][0]["everything"]["completed"] > 0


def test_a_tiny_run_reports_what_it_always_has(beeyard: Beeyard, yard: list[str]) -> None:
    code, out, fault = beeyard("diff", "fifo", "platform", *yard, "--json")
    assert (code, fault) == (0, "")
    told = json.loads(out)
    del told["measured"], told["scenario"]
    written = json.dumps(told, indent=2, ensure_ascii=False) + "\n"
    if os.environ.get("BEEYARD_WRITE_GOLDEN"):
        GOLDEN.write_text(written, encoding="utf-8")
    assert written == GOLDEN.read_text(encoding="utf-8")


def test_a_person_gets_tables_with_what_was_simulated_said_beside_them(
    beeyard: Beeyard, yard: list[str], tmp_path: Path
) -> None:
    code, out, fault = beeyard("simulate", tmp_path / "policy.lua", *yard)
    assert (code, fault) == (0, "")
    for said in ("policy: 12 jobs", "interactive", "batch", "utilization", "fairness", "decisions"):
        assert said in out
    assert "Time, clients, hosts and workers are simulated" in out


def test_nothing_but_the_policy_need_be_given(beeyard: Beeyard, tmp_path: Path) -> None:
    path = tmp_path / "my.lua"
    path.write_text(POLICY)
    code, out, _ = beeyard("simulate", path, "--jobs", "50", "--json")
    told = json.loads(out)
    assert code == 0
    assert told["reports"][0]["policy"] == "my"
    assert told["reports"][0]["everything"]["jobs"] == 50


def test_a_trace_gets_tenants_and_classes_and_the_report_says_that_they_are_made_up(
    beeyard: Beeyard,
) -> None:
    code, out, _ = beeyard("simulate", "--trace", "azure-2023-code", "--jobs", "60", "--json")
    told = json.loads(out)
    assert code == 0
    assert "drawn from seed 1" in told["scenario"]["note"]
    assert len(told["reports"][0]["classes"]) > 1
    assert len(told["reports"][0]["tenants"]) > 1


def test_a_rate_makes_the_same_jobs_come_faster(beeyard: Beeyard, yard: list[str]) -> None:
    slow = json.loads(beeyard("simulate", *yard, "--json", "--rate", "0.2")[1])
    fast = json.loads(beeyard("simulate", *yard, "--json", "--rate", "50")[1])
    assert fast["reports"][0]["virtual_ms"] < slow["reports"][0]["virtual_ms"] / 5


def test_diff_says_who_waits_longer(beeyard: Beeyard, yard: list[str]) -> None:
    code, out, _ = beeyard("diff", "fifo", "platform", *yard, "--rate", "20")
    assert code == 0
    assert "wait" in out
    assert "the largest differences" in out
    told = json.loads((beeyard("diff", "fifo", "platform", *yard, "--rate", "20", "--json"))[1])
    groups = {(one["kind"], one["name"]): one for one in told["differences"][0]["groups"]}
    assert groups["class", "interactive"]["mean_wait_change_ms"] < 0
    assert groups["class", "batch"]["mean_wait_change_ms"] > 0
    largest = [
        abs(after - before)
        for before, after in (one["wait_ms"] for one in told["differences"][0]["jobs"])
    ]
    assert largest == sorted(largest, reverse=True)


def test_a_policy_does_not_differ_from_itself(beeyard: Beeyard, yard: list[str]) -> None:
    _, out, _ = beeyard("diff", "platform", "platform", *yard)
    assert "does to every job exactly what" in out


@pytest.mark.parametrize(("suffix", "begins"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_a_picture_is_drawn(
    beeyard: Beeyard, yard: list[str], tmp_path: Path, suffix: str, begins: bytes
) -> None:
    for policies in (["fifo"], ["fifo", "platform"]):
        path = tmp_path / f"{len(policies)}{suffix}"
        command = "simulate" if len(policies) == 1 else "diff"
        code, _, fault = beeyard(command, *policies, *yard, "--plot", path)
        assert (code, fault) == (0, "")
        assert path.read_bytes().startswith(begins)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ("simulate", "none.lua"),
            2,
            "none.lua: No such file or directory; there are also platform",
        ),
        (("simulate", "--fleet", "none.yaml"), 2, "none.yaml: No such file"),
        (("simulate", "--trace", "none.csv"), 2, "none.csv: No such file"),
        (("simulate", "--jobs", "0"), 2, "1 to 1000000"),
        (("simulate", "--jobs", "many"), 2, "invalid"),
        (("simulate", "--rate", "-1"), 2, "above 0"),
        (("simulate", "--rate", "nan"), 2, "above 0"),
        (("simulate", "--seed", "-1"), 2, "0 to"),
        (("simulate", "--plot", "picture.gif"), 2, ".png or .svg"),
        (("simulate", "--plot", "nowhere/picture.png"), 2, "no such folder"),
        (("simulate", "--trace", "mooncake", "--load", "x.yaml"), 2, "not allowed with"),
        (("diff", "fifo"), 2, "2 to 8 policies"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(
    beeyard: Beeyard, arguments: tuple[str, ...], code: int, said: str
) -> None:
    got, out, fault = beeyard(*arguments)
    assert got == code
    assert out == ""
    assert said in fault
    assert "Traceback" not in fault


def test_a_policy_that_does_not_load_is_told_with_its_line(
    beeyard: Beeyard, tmp_path: Path
) -> None:
    path = tmp_path / "broken.lua"
    path.write_text("function schedule(\n")
    code, _, fault = beeyard("simulate", path)
    assert code == 1
    assert fault.startswith(f"{path}:")
    rules = tmp_path / "rules.yaml"
    rules.write_text("scheduler:\n  nam: x\n")
    code, _, fault = beeyard("simulate", rules)
    assert code == 1
    assert fault.startswith(f"{rules}:2: ")
