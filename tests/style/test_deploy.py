"""The files of deploy/ and compose.yaml fit each other and their formats.

No container engine is needed, and none is used: these tests say that the files are well formed and name only what
exists. That the images build and the containers run is not proven here.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from beeyard_runtime import semconv

from tests.style.repository import ROOT, files, text_of
from tests.support.debian_tools import debian_tool

BIN = Path(sys.executable).parent
DOCKERFILES = [name for name in files() if name.startswith("deploy/docker/")]


def load(name: str) -> Any:
    return yaml.safe_load(text_of(name))


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = load("compose.yaml")["services"]
    return found


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_compose_file_follows_the_compose_specification() -> None:
    command = ("--builtin-schema", "vendor.compose-spec", "compose.yaml")
    checked = run(BIN / "check-jsonschema", *command)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_dockerfiles_are_clean() -> None:
    assert DOCKERFILES
    linted = run(BIN / "hadolint", *DOCKERFILES)
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_every_role_has_an_image_and_every_image_a_role() -> None:
    built = {
        service["build"]["dockerfile"]: service
        for service in services().values()
        if "build" in service
    }
    assert sorted(built) == DOCKERFILES
    for dockerfile in built:
        modules = re.findall(r'ENTRYPOINT \["python", "-m", "(\w+)"\]', text_of(dockerfile))
        assert [bool(list((ROOT / "services").glob(f"*/{module}"))) for module in modules] == [True]


def test_every_flag_that_compose_passes_is_known_to_its_role() -> None:
    for name, service in services().items():
        if "build" in service:
            role = name.replace("-", "_")
            told = run(sys.executable, "-m", f"beeyard_{role}", "--help")
            assert told.returncode == 0, told.stderr
            flags = {word.split("=")[0] for word in service["command"]}
            assert flags <= set(re.findall(r"--[a-z-]+", told.stdout)), name


def test_what_a_dockerfile_copies_exists_and_reaches_the_builder() -> None:
    sent = {line[1:] for line in text_of(".dockerignore").splitlines() if line.startswith("!")}
    for dockerfile in DOCKERFILES:
        for sources in re.findall(r"^COPY (?!--from)(.*) \S+$", text_of(dockerfile), re.MULTILINE):
            for source in sources.split():
                assert (ROOT / source).exists(), f"{dockerfile}: {source}"
                assert source.split("/")[0] in {path.split("/")[0] for path in sent}, source


def test_what_compose_mounts_exists() -> None:
    volumes = set(load("compose.yaml")["volumes"])
    for name, service in services().items():
        for mount in service.get("volumes", []):
            # `${VARIABLE:-default}` is for the operator to choose.
            source = re.sub(r"^\$\{\w+:-[^}]*\}", "", mount).split(":")[0]
            if source.startswith("./"):
                assert (ROOT / source).exists(), f"{name}: {mount}"
            elif source:
                assert source in volumes, f"{name}: {mount}"


def test_nothing_is_published_beyond_loopback() -> None:
    for name, service in services().items():
        for port in service.get("ports", []):
            assert str(port).startswith("127.0.0.1:"), f"{name}: {port}"
        for word in service.get("command", []):
            if str(word).startswith(
                ("--listen=", "--admin-listen=", "--metrics-listen=", "--web.listen-address=")
            ):
                assert "=127.0.0.1:" in word, f"{name}: {word}"


def test_every_role_is_asked_for_its_health_where_it_listens() -> None:
    for name, service in services().items():
        if "build" in service:
            (listen,) = (w for w in service["command"] if w.startswith("--listen="))
            asked = " ".join(service["healthcheck"]["test"])
            assert listen.removeprefix("--listen=") in asked, name


def test_no_two_services_share_a_port_of_the_host() -> None:
    ports = [
        match
        for service in services().values()
        for word in [*service.get("command", []), *service.get("ports", [])]
        for match in re.findall(
            r"^(?:--[a-z.-]*listen(?:-address)?=)?127\.0\.0\.1:(\d+)", str(word)
        )
    ]
    assert len(ports) == len(set(ports)), sorted(ports)


def test_collector_pipelines_name_only_what_is_configured() -> None:
    collector = load("deploy/otel-collector/config.yaml")
    both_ways = set(collector["connectors"])
    for name, pipeline in collector["service"]["pipelines"].items():
        assert set(pipeline["receivers"]) <= set(collector["receivers"]) | both_ways, name
        assert set(pipeline["processors"]) <= set(collector["processors"]), name
        assert set(pipeline["exporters"]) <= set(collector["exporters"]) | both_ways, name


def test_prometheus_scrapes_services_that_exist() -> None:
    jobs = load("deploy/prometheus/prometheus.yaml")["scrape_configs"]
    targets = {t for job in jobs for c in job["static_configs"] for t in c["targets"]}
    told = " ".join(
        str(word)
        for service in services().values()
        for word in [*service.get("command", []), *service.get("ports", [])]
    )
    assert {target for target in targets if target not in told} == set()


def test_dashboards_ask_for_spans_that_are_recorded() -> None:
    spans = {value for name, value in vars(semconv).items() if name.startswith("SPAN_")}
    for name in files():
        if name.startswith("deploy/grafana/dashboards/"):
            board = json.loads(text_of(name))
            asked = re.findall(r'span_name=\\?"([^"\\]+)', json.dumps(board))
            assert set(asked) <= spans, name


def test_dashboards_and_alerts_ask_for_figures_that_are_kept() -> None:
    kept = {
        *(
            _bare(name)
            for name in re.findall(r"^\| `(\w+)`", text_of("docs/metrics.md"), re.MULTILINE)
        ),
        *("up", "traces_span_metrics_calls", "traces_span_metrics_duration_milliseconds"),
    }
    for name in files():
        if name.startswith("deploy/grafana/dashboards/"):
            panels = json.loads(text_of(name))["panels"]
            asked = [target["expr"] for panel in panels for target in panel["targets"]]
        elif name == "deploy/prometheus/alerts.yaml":
            asked = [rule["expr"] for group in load(name)["groups"] for rule in group["rules"]]
        else:
            continue
        for expression in asked:
            assert _figures_in(expression) <= kept, f"{name}: {expression}"


def _figures_in(expression: str) -> set[str]:
    """Return the names of the figures in a query: what is no function, label, keyword or number."""
    bare = re.sub(r'\{[^}]*\}|\[[^\]]*\]|by \([^)]*\)|"[^"]*"', "", expression)
    names = re.findall(r"[a-z][a-z_]+(?![a-z_]*\s*\()", bare)
    return {_bare(each) for each in names}


def _bare(name: str) -> str:
    return re.sub(r"_(total|bucket|count|sum)$", "", name)


def test_the_table_of_figures_is_what_the_processes_keep() -> None:
    told = run(sys.executable, "scripts/metrics_table.py", "--check")
    assert told.returncode == 0, f"run scripts/metrics_table.py: {told.stderr}"


def test_alerts_are_valid_and_fire_when_they_should() -> None:
    promtool = debian_tool("prometheus", "usr/bin/promtool")
    for what in (
        "check rules deploy/prometheus/alerts.yaml",
        "test rules deploy/prometheus/alerts_test.yaml",
        "check config deploy/prometheus/prometheus.yaml",
    ):
        told = run(promtool, *what.split())
        assert told.returncode == 0, told.stdout + told.stderr
