"""The systemd units of deploy/systemd: systemd itself reads them, and they say what the services need of them.

No systemd runs here as the first process, so nothing is started: docs/deploying.md says what was tried by hand.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from beeyard_core import limits
from beeyard_gateway.config import GatewaySettings
from beeyard_gateway.config import read_settings as read_gateway
from beeyard_pool_manager.config import PoolManagerSettings
from beeyard_pool_manager.config import read_settings as read_pool_manager
from beeyard_queen.config import QueenSettings
from beeyard_queen.config import read_settings as read_queen
from beeyard_runtime.config import ServiceSettings

from tests.style.repository import ROOT, text_of

FOLDER = ROOT / "deploy" / "systemd"
ROLES = ("queen", "pool-manager", "gateway")
SETTINGS: dict[str, type[ServiceSettings]] = {
    "queen": QueenSettings,
    "pool-manager": PoolManagerSettings,
    "gateway": GatewaySettings,
}
READ = {"queen": read_queen, "pool-manager": read_pool_manager, "gateway": read_gateway}
# Of 10, as `systemd-analyze security` counts. The queen's sandbox and the pool manager's devices need what costs them.
EXPOSURE_MAX = {"queen": 2.5, "pool-manager": 2.8, "gateway": 1.5}


def systemd(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not on PATH: install systemd to run this test")
    return found


def settings_of(text: str) -> dict[str, list[str]]:
    """Return every `Key=value` of a unit, in order; a key may be given several times."""
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^([A-Za-z]\w*)=(.*)$", text, re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


def unit(role: str) -> dict[str, list[str]]:
    return settings_of(text_of(f"deploy/systemd/beeyard-{role}.service"))


def drop_in(role: str) -> dict[str, list[str]]:
    return settings_of(text_of(f"deploy/systemd/secured/beeyard-{role}.conf"))


def seconds(role: str, key: str) -> float:
    (value,) = unit(role)[key]
    return float(value)


def installed(tmp_path: Path, role: str, *, secured: bool, more: str = "") -> Path:
    """Lay a unit out as on a host, with this Python for the host's; return its file."""
    name = f"beeyard-{role}.service"
    text = text_of(f"deploy/systemd/{name}").replace("/opt/beeyard/bin/python", sys.executable)
    file = tmp_path / name
    file.write_text(text + more, encoding="utf-8")
    if secured:
        folder = tmp_path / f"{name}.d"
        folder.mkdir()
        shutil.copy(FOLDER / "secured" / f"beeyard-{role}.conf", folder / "secured.conf")
    return file


def complaints(file: Path) -> str:
    """Return what systemd says of a unit; nothing if it is content."""
    command = [systemd("systemd-analyze"), "verify", "--man=no", "--recursive-errors=no", str(file)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    # Of units of this machine it may say something, too.
    lines = [line for line in told.stderr.splitlines() if file.stem in line or file.name in line]
    return "\n".join(lines) or ("" if told.returncode == 0 else told.stderr)


@pytest.mark.parametrize("secured", [False, True], ids=["loopback", "secured"])
@pytest.mark.parametrize("role", ROLES)
def test_systemd_has_nothing_to_complain_about(tmp_path: Path, role: str, secured: bool) -> None:
    assert complaints(installed(tmp_path, role, secured=secured)) == ""


@pytest.mark.parametrize("line", ["Restrat=always", "KillMode=sometimes", "TimeoutStopSec=soon"])
def test_systemd_would_complain_about_a_mistake(tmp_path: Path, line: str) -> None:
    key, _, value = line.partition("=")
    told = complaints(installed(tmp_path, "gateway", secured=False, more=f"\n[Service]\n{line}\n"))
    assert key in told or value in told


@pytest.mark.parametrize("role", ROLES)
def test_units_leave_little_to_whoever_takes_a_service_over(tmp_path: Path, role: str) -> None:
    command = [systemd("systemd-analyze"), "security", "--offline=true"]
    limit = f"--threshold={round(EXPOSURE_MAX[role] * 10)}"
    file = installed(tmp_path, role, secured=False)
    told = subprocess.run([*command, limit, file], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout[-500:] + told.stderr


def test_the_user_and_its_folders_are_made(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    for command, file in (
        ((systemd("systemd-sysusers"),), "beeyard.sysusers.conf"),
        ((systemd("systemd-tmpfiles"), "--create"), "beeyard.tmpfiles.conf"),
    ):
        # As standard input, since a file would be looked for below the root.
        content = text_of(f"deploy/systemd/{file}")
        made = subprocess.run(
            [*command, f"--root={tmp_path}", "-"],
            input=content, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
    users = (tmp_path / "etc/passwd").read_text(encoding="utf-8")
    assert re.search(r"^beeyard:.*:/var/lib/beeyard:", users, re.MULTILINE)
    modes = {
        folder: (tmp_path / "etc/beeyard" / folder).stat().st_mode & 0o777
        for folder in ("tls", "tokens")
    }
    assert modes == {"tls": 0o750, "tokens": 0o700}


@pytest.mark.parametrize("role", ROLES)
def test_a_service_takes_what_its_unit_and_the_example_tell_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, role: str
) -> None:
    """What is commented out in the example counts, too: it is there to be used."""
    example = text_of("deploy/systemd/beeyard.env.example")
    told = [*unit(role).get("Environment", []), *drop_in(role)["Environment"]]
    told += re.findall(r"^#?(BEEYARD_\w+=.*)$", example, re.MULTILINE)
    for name, _, value in (line.partition("=") for line in told):
        # A folder that the operator has to make.
        monkeypatch.setenv(name, value if value != "/srv/models" else str(tmp_path))
    (command,) = unit(role)["ExecStart"]
    flags = [word for word in command.split() if word.startswith("--")]
    settings = READ[role](flags)
    assert settings.log_format == "json"
    assert isinstance(settings, SETTINGS[role])


def test_the_example_does_not_undo_a_drop_in() -> None:
    """The environment file wins over both."""
    example = settings_of(text_of("deploy/systemd/beeyard.env.example"))
    for role in ROLES:
        for line in drop_in(role)["Environment"]:
            assert line.partition("=")[0] not in example, line


@pytest.mark.parametrize("role", ROLES)
def test_services_come_back_unless_their_settings_are_wrong(role: str) -> None:
    assert unit(role)["Restart"] == ["always"]
    assert unit(role)["RestartPreventExitStatus"] == ["2"]
    assert unit(role)["StartLimitIntervalSec"] == ["0"]
    assert seconds(role, "LimitNOFILE") >= limits.HTTP_CONNECTIONS_MAX * 2


def test_a_drain_ends_before_systemd_loses_its_patience() -> None:
    gateway_ms = limits.DRAIN_LEAD_MS + limits.DRAIN_GRACE_MS + limits.DRAIN_DELIVERY_MS
    assert seconds("gateway", "TimeoutStopSec") * 1_000 >= 2 * gateway_ms
    queen_ms = limits.RECONNECT_MAX_MS + limits.TELEMETRY_FLUSH_MS
    assert seconds("queen", "TimeoutStopSec") * 1_000 >= 2 * queen_ms
    workers_ms = limits.WORKER_STOP_GRACE_MS + limits.WORKER_KILL_MARGIN_MS
    pool_ms = workers_ms + limits.RPC_DEADLINE_MS + limits.TELEMETRY_FLUSH_MS
    assert seconds("pool-manager", "TimeoutStopSec") * 1_000 >= pool_ms


def test_workers_outlive_the_pool_managers_unit() -> None:
    told = unit("pool-manager")
    assert told["KillMode"] == ["process"]
    assert told["OOMPolicy"] == ["continue"]
    assert "BEEYARD_POOL_MANAGER_LEAVE_WORKERS=true" in told["Environment"]
    # What systemd takes away from a service that stops, its workers must not need.
    taken_away = {"PrivateTmp", "RuntimeDirectory", "LoadCredential", "RemoveIPC", "DynamicUser"}
    assert not taken_away & {*told, *drop_in("pool-manager")}
    # ... and a successor comes back before they lose their patience.
    assert seconds("pool-manager", "RestartSec") * 1_000 < limits.SUPERVISOR_GRACE_MS / 10


def test_the_sandbox_of_policies_may_build_its_walls() -> None:
    """Hardening that forbids namespaces, chroot or a filter of one's own would take the walls away in silence."""
    told = unit("queen")
    assert set(told["RestrictNamespaces"][0].split()) == {"user", "net", "mnt", "ipc", "uts"}
    denied, allowed_again = told["SystemCallFilter"]
    assert denied.startswith("~")
    assert allowed_again == "chroot"
    assert "@sandbox" not in denied


@pytest.mark.parametrize("role", ["queen", "gateway"])
def test_private_keys_are_handed_over_as_credentials(role: str) -> None:
    told = drop_in(role)
    credentials = dict(line.split(":", 1) for line in told["LoadCredential"])
    named = [line.split("=%d/")[1] for line in told["Environment"] if "=%d/" in line]
    assert sorted(credentials) == sorted(named)
    assert "tls.key" in credentials
    assert not any(path.endswith("tokens.json") for path in credentials.values())
