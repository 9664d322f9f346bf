"""`beeyard tokens`: a token is shown once, the file has no secret, and what is revoked counts no more."""

import datetime as dt
import json
from pathlib import Path

import pytest
from beeyard_runtime.security.token_file import FileTokens
from beeyard_runtime.security.tokens_command import main
from beeyard_runtime.testing import ManualClock

from tests.support.command import beeyard

NOW = dt.datetime(2026, 11, 26, tzinfo=dt.UTC)
NOW_MS = int(NOW.timestamp() * 1_000)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


def known(file: Path, token: str, *, days: int = 0) -> str:
    """Return whose a token is after so many days; empty: it does not count."""
    found = FileTokens(file, ManualClock(wall_ms=NOW_MS + days * 86_400_000)).find(token)
    return found.caller.name if found else ""


def test_a_token_is_shown_once_and_kept_as_a_hash(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--file", str(file)]
    assert main(["create", "alice", "--role", "client", "--tenant", "a", *where], NOW) == 0
    token = capsys.readouterr().out.strip()
    assert known(file, token) == "alice"
    secret = token.rpartition("_")[2]
    beside = [path for path in file.parent.iterdir() if path.is_file()]
    assert all(secret not in path.read_text(encoding="utf-8") for path in beside)
    assert {path.stat().st_mode & 0o077 for path in beside if path.suffix != ".lock"} == {0}
    assert main(["list", *where], NOW) == 0
    listed = capsys.readouterr().out
    assert "alice" in listed
    assert secret not in listed


def test_a_token_ends_with_its_days_or_its_revocation(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--file", str(file)]
    assert main(["create", "olga", "--role", "operator", "--days", "2", *where], NOW) == 0
    token = capsys.readouterr().out.strip()
    assert [known(file, token, days=days) for days in (1, 2)] == ["olga", ""]
    assert main(["revoke", "olga", "--json", *where], NOW) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "revoked"
    assert known(file, token) == ""
    assert main(["revoke", "olga", *where], NOW) == 1
    # The name is free again, and the trail tells both.
    assert main(["create", "olga", "--role", "operator", *where], NOW) == 0
    trail = file.with_name("tokens.json.audit.jsonl").read_text(encoding="utf-8").splitlines()
    actions = [json.loads(line)["action"] for line in trail]
    assert actions == ["tokens.create", "tokens.revoke", "tokens.create"]


def test_a_token_in_a_file_is_its_owners_and_is_not_printed(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = file.with_name("olga.token")
    create = ["create", "olga", "--role", "operator", "--out", str(out), "--file", str(file)]
    assert main(create, NOW) == 0
    token = out.read_text(encoding="ascii").strip()
    assert known(file, token) == "olga"
    assert token not in capsys.readouterr().out
    assert out.stat().st_mode & 0o777 == 0o600
    # A file that is there is nobody's to replace, and no token is made for it.
    assert main([*create[:1], "omar", *create[2:]], NOW) == 1
    assert "omar" not in file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["create", "a", "--role", "client"], "tenant_id must be set"),
        (["create", "a", "--role", "pool"], "pool_id must be set"),
        (["create", "a", "--role", "admin", "--tenant", "t"], "bound to a tenant"),
        (["revoke", "a"], "is not there"),
        (["list"], "is not there"),
    ],
)
def test_what_cannot_be_is_said(
    file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main([*arguments, "--file", str(file)], NOW) == 1
    assert words in capsys.readouterr().err
    assert not file.exists()


def test_one_name_is_one_token(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    create = ["create", "olga", "--role", "operator", "--file", str(file)]
    assert main(create, NOW) == 0
    assert main(create, NOW) == 1
    assert "revoke it first" in capsys.readouterr().err


async def test_the_command_line_makes_tokens(file: Path) -> None:
    made = await beeyard(
        "tokens", "create", "olga", "--role", "operator", "--file", str(file), "--json"
    )
    assert made.code == 0, made.stderr
    told = made.json()
    assert told["name"] == "olga"
    assert str(told["token"]).startswith("bee_")
    assert (await beeyard("tokens", "create", "olga", "--file", str(file))).code == 2
