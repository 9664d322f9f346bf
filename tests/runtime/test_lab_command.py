"""What `beeyard up --secure` shows is made once and kept while it is good; what is wrong with such files is found."""

import datetime as dt
import json
from pathlib import Path

import pytest
from beeyard_runtime.security.certificates import PeerName, issued_to
from beeyard_runtime.security.inspection import main as inspect
from beeyard_runtime.security.lab_command import furnish, main
from beeyard_runtime.security.token_file import FileTokens
from beeyard_runtime.testing import ManualClock

NOW = dt.datetime(2026, 11, 26, tzinfo=dt.UTC)
EVERYTHING = ["ca", "queen", "pool", "gateway", "me", "me.token", "gateway.token"]


def test_everything_is_made_once_and_renewed_before_it_ends(tmp_path: Path) -> None:
    folder = tmp_path / "secure"
    assert furnish(folder, "gpu 1", NOW) == EVERYTHING
    assert furnish(folder, "gpu 1", NOW) == []
    assert issued_to((folder / "pool.pem").read_bytes())[1] == PeerName("gpu 1")
    assert furnish(folder, "gpu 2", NOW) == ["pool"]
    assert furnish(folder, "gpu 2", NOW + dt.timedelta(days=390)) == EVERYTHING[1:5]
    assert furnish(folder, "gpu 2", NOW + dt.timedelta(days=3_640)) == EVERYTHING[:5]
    secrets = [one for one in folder.iterdir() if one.suffix in {".key", ".token", ".json"}]
    assert {one.stat().st_mode & 0o077 for one in [folder, *secrets]} == {0}


def test_a_token_that_was_lost_is_made_anew_and_one_that_was_revoked_is_not(tmp_path: Path) -> None:
    furnish(tmp_path, "p1", NOW)
    first = (tmp_path / "me.token").read_text(encoding="ascii").strip()
    (tmp_path / "me.token").unlink()
    assert furnish(tmp_path, "p1", NOW) == ["me.token"]
    second = (tmp_path / "me.token").read_text(encoding="ascii").strip()
    tokens = FileTokens(tmp_path / "tokens.json", ManualClock())
    assert first != second
    assert all(tokens.find(one) for one in (first, second))


def test_what_is_in_the_way_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["--dir", str(tmp_path / "file"), "--pool", "p1"], NOW) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_certificate_that_cannot_be_read_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    furnish(tmp_path, "p1", NOW)
    (tmp_path / "queen.pem").write_text("no certificate", encoding="ascii")
    assert main(["--dir", str(tmp_path), "--pool", "p1"], NOW) == 1
    told = capsys.readouterr().err
    assert str(tmp_path / "queen.pem") in told
    assert "remove it" in told


def inspected(
    capsys: pytest.CaptureFixture[str], folder: Path, now: dt.datetime = NOW
) -> dict[str, tuple[str, str]]:
    assert inspect(["--dir", str(folder)], now) == 0
    found = json.loads(capsys.readouterr().out)
    return {one["check"]: (one["level"], one["message"]) for one in found}


def test_what_ends_soon_or_is_open_to_everybody_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing beside what this test makes.
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "secure"
    furnish(folder, "p1", NOW)
    assert {level for level, _ in inspected(capsys, folder).values()} == {"ok"}
    soon = inspected(capsys, folder, NOW + dt.timedelta(days=390))
    assert soon["queen.pem"][0] == "warn"
    assert "expires in 7 days" in soon["queen.pem"][1]
    assert soon["ca.pem"][0] == "ok"
    late = inspected(capsys, folder, NOW + dt.timedelta(days=400))
    assert late["queen.pem"][0] == "fail"
    (folder / "me.token").chmod(0o644)
    (folder / "queen.key").chmod(0o604)
    (folder / "tokens.json").chmod(0o662)
    (folder / "me.pem").write_text("no certificate", encoding="ascii")
    found = inspected(capsys, folder)
    wrong = {check for check, (level, _) in found.items() if level == "fail"}
    assert wrong == {"me.token", "queen.key", "tokens.json", "me.pem"}
    assert "everybody" in found["me.token"][1]


def test_files_that_the_configuration_and_the_environment_name_are_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    token = tmp_path / "of-the-pool"
    token.write_text("x", encoding="ascii")
    token.chmod(0o644)
    settings = f'[pool_manager]\ntoken_file = "{token}"\n'
    (tmp_path / "beeyard.toml").write_text(settings, encoding="utf-8")
    monkeypatch.setenv("BEEYARD_QUEEN_TLS_CERT", str(tmp_path / "missing.pem"))
    found = inspected(capsys, tmp_path / "nowhere")
    assert found["of-the-pool"][0] == "fail"
    assert found["missing.pem"] == (
        "fail",
        f"{tmp_path / 'missing.pem'}: No such file or directory",
    )


def test_an_authority_is_not_renewed_in_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    furnish(tmp_path / "secure", "p1", NOW)
    assert inspect(["--dir", "secure"], NOW + dt.timedelta(days=3_645)) == 0
    advice = {one["check"]: one["advice"] for one in json.loads(capsys.readouterr().out)}
    assert advice["queen.pem"] == "beeyard certs renew queen --dir secure"
    assert "new authority" in advice["ca.pem"]
    assert "renew" not in advice["ca.pem"], "the command would refuse"
