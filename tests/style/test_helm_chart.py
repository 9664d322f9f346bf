"""The Helm chart: helm itself renders it, the schemas of Kubernetes judge what comes out, and it fits the services.

No cluster is there, so nothing is installed: what a controller makes of the manifests is not proven here.
"""

import functools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from beeyard_core import limits
from beeyard_gateway.config import read_settings as read_gateway
from beeyard_pool_manager.config import read_settings as read_pool_manager
from beeyard_queen.config import read_settings as read_queen
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from tests.style.repository import ROOT, text_of
from tests.support.chart_tools import KUBERNETES, chart_tools

CHART = ROOT / "deploy" / "helm" / "beeyard"
VALUES = sorted((CHART / "ci").glob("*-values.yaml"))
READ = {"queen": read_queen, "pool-manager": read_pool_manager, "gateway": read_gateway}
# Their schemas are the Prometheus operator's, which no package here ships.
NOT_OF_KUBERNETES = {"ServiceMonitor", "PodMonitor"}
Manifest = dict[str, Any]

each_values = pytest.mark.parametrize("values", VALUES, ids=lambda file: file.stem)


def helm(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [chart_tools() / "helm", *words], capture_output=True, text=True, check=False
    )


@functools.cache
def rendered(values: Path) -> tuple[Manifest, ...]:
    told = helm("template", "bee", CHART, "--values", values)
    assert told.returncode == 0, told.stderr
    return tuple(each for each in yaml.safe_load_all(told.stdout) if each)


def of_kind(values: Path, *kinds: str) -> list[Manifest]:
    return [each for each in rendered(values) if each["kind"] in kinds]


def pods(values: Path) -> Iterator[tuple[str, Manifest]]:
    """Return the role and the pod's spec of everything that makes pods."""
    for each in of_kind(values, "StatefulSet", "DaemonSet", "Deployment"):
        template = each["spec"]["template"]
        yield template["metadata"]["labels"]["app.kubernetes.io/component"], template["spec"]


def container(pod: Manifest) -> Manifest:
    first: Manifest = pod["containers"][0]
    return first


@functools.cache
def judge(version: str, schema: str) -> Draft202012Validator:
    folder = chart_tools() / version
    definitions = json.loads((folder / "_definitions.json").read_text(encoding="utf-8"))
    resource = Resource.from_contents(definitions, default_specification=DRAFT202012)
    # By the name that each schema refers to it with.
    registry = Registry().with_resource("/api/_definitions.json", resource)
    content = json.loads((folder / schema).read_text(encoding="utf-8"))
    return Draft202012Validator(content, registry=registry)


def faults(version: str, manifest: Manifest) -> list[str]:
    """Return what the schema of its kind has against a manifest."""
    group, _, api = manifest["apiVersion"].rpartition("/")
    name = "-".join(part for part in (manifest["kind"].lower(), group.split(".")[0], api) if part)
    found = judge(version, f"{name}.json").iter_errors(manifest)
    return [f"{error.json_path}: {error.message[:200]}" for error in found]


@each_values
def test_helm_has_nothing_to_complain_about(values: Path) -> None:
    told = helm("lint", "--strict", CHART, "--values", values)
    assert told.returncode == 0, told.stdout + told.stderr


# Everything by the newest; by the oldest, where most is said.
@pytest.mark.parametrize(
    ("values", "version"),
    [
        *((file, KUBERNETES[-1]) for file in VALUES),
        *((file, KUBERNETES[0]) for file in VALUES if file.stem.startswith("many")),
    ],
    ids=lambda each: getattr(each, "stem", each),
)
def test_manifests_follow_the_schemas_of_kubernetes(values: Path, version: str) -> None:
    judged = [each for each in rendered(values) if each["kind"] not in NOT_OF_KUBERNETES]
    assert len(judged) >= 5
    found = {each["metadata"]["name"]: faults(version, each) for each in judged}
    assert {name: told for name, told in found.items() if told} == {}


def test_the_schemas_would_find_a_mistake() -> None:
    (daemons,) = of_kind(VALUES[0], "DaemonSet")
    planted: Manifest = json.loads(json.dumps(daemons))
    planted["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    planted["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"] = True
    told = " ".join(faults(KUBERNETES[-1], planted))
    assert "readynessProbe" in told
    assert "maxUnavailable" in told


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("gateway.replcas=3", "replcas"),
        ("gateway.replicas=0", "/gateway/replicas"),
        ("poolManager.gpu.mode=magic", "/poolManager/gpu/mode"),
        ("image.registry=registry.lab", "/image/registry"),
        ("tls.clientCerts=required", "poolManager.tlsSecret"),
        ("gateway.ingress.enabled=true", "gateway.ingress.host"),
        ("monitoring.enabled=true,monitoring.interval=often", "/monitoring/interval"),
    ],
)
def test_wrong_values_are_refused_by_their_name(wrong: str, told: str) -> None:
    refused = helm("template", "bee", CHART, "--set", wrong)
    assert refused.returncode != 0
    assert told in refused.stderr


def test_every_value_has_a_place_in_the_schema() -> None:
    """An object without `additionalProperties: false` would take a misspelt value in silence."""
    schema = json.loads(text_of("deploy/helm/beeyard/values.schema.json"))
    values = yaml.safe_load(text_of("deploy/helm/beeyard/values.yaml"))
    for path in _paths(values):
        node = schema
        for key in path:
            if "properties" not in node:
                break
            assert node["additionalProperties"] is False, ".".join(path)
            assert key in node["properties"], ".".join(path)
            node = node["properties"][key]


def _paths(values: Manifest, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from _paths(value, (*above, key))


@each_values
def test_every_role_takes_what_it_is_told(
    values: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for role, pod in pods(values):
        # The folder of models is the pod's.
        told = [
            f"--models-dir={tmp_path}" if word == "--models-dir=/models" else word
            for word in container(pod)["args"]
        ]
        settings = READ[role](told)
        assert settings.log_format == "json"


@each_values
def test_what_a_role_is_told_to_read_is_mounted(values: Path) -> None:
    for role, pod in pods(values):
        mounts = [mount["mountPath"] for mount in container(pod)["volumeMounts"]]
        declared = {volume["name"] for volume in pod["volumes"]} | {"store"}
        assert {mount["name"] for mount in container(pod)["volumeMounts"]} <= declared
        words = [
            *container(pod)["args"],
            *json.dumps(container(pod).get("readinessProbe")).split('"'),
        ]
        for path in re.findall(r"=(/[\w./-]+)", " ".join(words)):
            assert any(path == at or path.startswith(f"{at}/") for at in mounts), f"{role}: {path}"


@each_values
def test_pods_may_do_little(values: Path) -> None:
    for role, pod in pods(values):
        assert pod["securityContext"]["runAsNonRoot"] is True, role
        assert pod["automountServiceAccountToken"] is False, role
        assert container(pod)["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, role
        assert {"requests", "limits"} <= set(container(pod)["resources"]), role


@each_values
def test_keys_and_tokens_come_from_secrets_that_others_cannot_read(values: Path) -> None:
    for role, pod in pods(values):
        secrets = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
        assert secrets, role
        # A key that everybody can read is refused by the services.
        assert {secret["defaultMode"] for secret in secrets} == {0o440}, role
        assert "TOKEN" not in json.dumps(container(pod).get("env", [])), role


@each_values
def test_services_find_their_pods(values: Path) -> None:
    labels = [
        (each["spec"]["template"]["metadata"]["labels"], each["spec"]["template"]["spec"])
        for each in of_kind(values, "StatefulSet", "DaemonSet", "Deployment")
    ]
    for each in of_kind(values, "Service"):
        wanted = each["spec"]["selector"].items()
        (chosen,) = [pod for told, pod in labels if wanted <= told.items()]
        named = {port["name"] for port in container(chosen)["ports"]}
        assert {port["targetPort"] for port in each["spec"]["ports"]} <= named
    for each in of_kind(values, "PodDisruptionBudget", "ServiceMonitor", "PodMonitor"):
        wanted = each["spec"]["selector"]["matchLabels"].items()
        assert any(wanted <= told.items() for told, _ in labels)


@each_values
def test_figures_leave_a_pod_only_with_tls_and_tokens_and_where_somebody_reads_them(
    values: Path,
) -> None:
    watched = {
        each["metadata"]["labels"]["app.kubernetes.io/component"]: each["spec"]
        for each in of_kind(values, "ServiceMonitor", "PodMonitor")
    }
    for role, pod in pods(values):
        told = container(pod)["args"]
        if role != "gateway":
            (listen,) = (word for word in told if word.startswith("--metrics-listen="))
            assert listen.startswith("--metrics-listen=0.0.0.0:") == (role in watched), role
        if role in watched:
            assert {"--tls-cert", "--tokens"} <= {word.split("=")[0] for word in told}, role
            named = {port["name"] for port in container(pod)["ports"]}
            (read,) = watched[role].get("endpoints") or watched[role]["podMetricsEndpoints"]
            assert read["port"] in named
            assert read["scheme"] == "https"
            needs_cert = "--tls-client-certs=required" in told
            assert needs_cert <= ("cert" in read["tlsConfig"])


@each_values
def test_everybody_dials_the_queen_by_a_name_that_its_certificate_must_have(values: Path) -> None:
    (queen,) = of_kind(values, "StatefulSet")
    name = queen["metadata"]["name"]
    assert name in {each["metadata"]["name"] for each in of_kind(values, "Service")}
    for role, pod in pods(values):
        told = container(pod)["args"]
        if role == "queen":
            command = container(pod)["readinessProbe"]["exec"]["command"]
            assert f"--server-name={name}" in command
        else:
            assert f"--queen={name}:7700" in told
    notes = helm("install", "bee", CHART, "--values", values, "--dry-run=client").stdout
    assert f"good for {name}" in notes


@each_values
def test_probes_ask_for_what_is_there(values: Path) -> None:
    routes = re.findall(r"^\| `GET (/\w+)`", text_of("docs/security.md"), re.MULTILINE)
    for role, pod in pods(values):
        probes = [container(pod)[key] for key in container(pod) if key.endswith("Probe")]
        assert probes, role
        for probe in probes:
            for word in probe.get("exec", {}).get("command", []):
                if word.startswith("--"):
                    assert word.split("=")[0] in _flags_of_health_check(), word
            if "httpGet" in probe:
                assert probe["httpGet"]["path"] in routes


@functools.cache
def _flags_of_health_check() -> str:
    command = [sys.executable, "-m", "beeyard_runtime.health_check", "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@each_values
def test_pods_end_after_what_runs_in_them(values: Path) -> None:
    for role, pod in pods(values):
        grace_ms = pod["terminationGracePeriodSeconds"] * 1_000
        settings = READ[role]([w for w in container(pod)["args"] if "models-dir" not in w])
        needed_ms = limits.RECONNECT_MAX_MS + limits.TELEMETRY_FLUSH_MS
        if role == "gateway":
            needed_ms += settings.drain_lead_ms + settings.drain_grace_ms  # type: ignore[attr-defined]
        elif role == "pool-manager":
            needed_ms += settings.worker_stop_grace_ms + limits.WORKER_KILL_MARGIN_MS  # type: ignore[attr-defined]
        assert grace_ms > needed_ms, role


def test_devices_are_asked_for_as_the_values_say() -> None:
    by_stem = {file.stem: dict(pods(file)).get("pool-manager") for file in VALUES}
    asked = by_stem["default-values"]
    assert asked is not None
    assert container(asked)["resources"]["limits"]["nvidia.com/gpu"] == 1
    seen = by_stem["many-gateways-values"]
    assert seen is not None
    assert seen["runtimeClassName"] == "nvidia"
    assert "nvidia.com/gpu" not in container(seen)["resources"]["limits"]
    none = by_stem["mutual-tls-values"]
    assert none is not None
    assert "--inventory=cpu" in container(none)["args"]
    assert by_stem["one-gateway-values"] is None


def test_a_pool_managers_pod_gets_the_secrets_of_its_own_node() -> None:
    (mutual,) = (file for file in VALUES if file.stem.startswith("mutual"))
    pod = dict(pods(mutual))["pool-manager"]
    own = [mount for mount in container(pod)["volumeMounts"] if mount["name"] in ("tokens", "tls")]
    assert {mount["subPathExpr"] for mount in own} == {
        "$(NODE_NAME).token",
        "$(NODE_NAME).pem",
        "$(NODE_NAME).key",
    }
    assert "--pool-id=$(NODE_NAME)" in container(pod)["args"]


def test_the_chart_and_the_package_have_one_version() -> None:
    chart = yaml.safe_load(text_of("deploy/helm/beeyard/Chart.yaml"))
    assert f'\nversion = "{chart["appVersion"]}"\n' in text_of("pyproject.toml")
