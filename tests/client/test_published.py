"""The client that is published by itself holds all that it needs and nothing of the services."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_published_client_carries_the_library_and_the_wire_types(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT / "clients" / "python", check=True, capture_output=True)
    (wheel,) = tmp_path.glob("beeyard_client-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "beeyard_client/client.py" in names
    assert "beeyard/queen/v1/inference_service_pb2.py" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"beeyard", "beeyard_client"}


def test_the_published_client_asks_for_what_the_project_asks_for() -> None:
    whole = _project(ROOT / "pyproject.toml")
    client = _project(ROOT / "clients" / "python" / "pyproject.toml")
    assert client["version"] == whole["version"]
    bounds = {_name(line): line for line in whole["dependencies"]}
    for line in client["dependencies"]:
        # The project has the SDK of OpenTelemetry, which brings the API that the client speaks to.
        assert bounds.get(_name(line).replace("-api", "-sdk"), "").replace("-sdk", "-api") == line


def _project(path: Path) -> dict[str, list[str]]:
    project: dict[str, list[str]] = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    return project


def _name(requirement: str) -> str:
    return requirement.partition(">=")[0]
