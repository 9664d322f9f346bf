"""`policy compile` prints the Lua, the schema, or where the YAML is wrong."""

import json
from pathlib import Path

import pytest
from beeyard_queen.policy.compile_command import main

from tests.style.repository import ROOT

GOLDEN = ROOT / "tests/policy/golden"


def test_a_good_policy_is_printed_as_lua(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(GOLDEN / "batch-optimized.yaml")]) == 0
    assert capsys.readouterr().out == (GOLDEN / "batch-optimized.lua").read_text()


def test_json_tells_the_rules_in_the_order_of_trial(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(GOLDEN / "determinism-first.yaml"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["lua"] == (GOLDEN / "determinism-first.lua").read_text()
    assert told["rules"][0] == {"name": "prioritize-seeded-jobs", "priority": 100, "line": 6}
    assert [rule["priority"] for rule in told["rules"]] == [100, 50, 0]


def test_a_fault_is_told_where_an_editor_finds_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("scheduler:\n  name: x\n  rulez: []\n")
    assert main([str(file)]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == (
        f'{file}:3:3: scheduler.rulez: unknown field "rulez"; did you mean "rules"?\n'
    )
    assert main([str(file), "--json"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["reason"], error["line"], error["column"]) == ("POLICY_INVALID", 3, 3)


def test_the_schema_needs_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--schema"]) == 0
    assert capsys.readouterr().out == (ROOT / "docs/policies/scheduler.schema.json").read_text()


def test_a_file_that_is_not_there_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["/nowhere/policy.yaml"]) == 2
    assert (
        capsys.readouterr().err
        == "beeyard policy: /nowhere/policy.yaml: No such file or directory\n"
    )


def test_explain_tells_which_rule_decides_and_what(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    context = tmp_path / "context.json"
    job = {"id": "job-1", "model_ref": "llama-7b", "seed": 42}
    worker = {"id": "worker-1", "model_ref": "llama-7b"}
    context.write_text(
        json.dumps({"queue": [job], "pools": [{"id": "pool-1", "workers": [worker]}]})
    )
    policy = str(GOLDEN / "determinism-first.yaml")
    assert main([policy, "--explain", str(context)]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "rule": "prioritize-seeded-jobs",
        "line": 6,
        "decision": {
            "action": "dispatch",
            "job_id": "job-1",
            "worker_id": "worker-1",
            "reason": "rule prioritize-seeded-jobs",
        },
    }
    context.write_text("{}")
    assert main([policy, "--explain", str(context)]) == 0
    assert json.loads(capsys.readouterr().out)["decision"] == {"use": "platform-scheduler"}
    context.write_text('{"queues": []}')
    assert main([policy, "--explain", str(context)]) == 2
    assert "queues" in capsys.readouterr().err
