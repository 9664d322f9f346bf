"""What Debian packages hold, unpacked into the user's cache: absent is a reason to skip, broken is a failure."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

_DOWNLOAD_S = 120


def debian_tool(package: str, program: str) -> Path:
    """Return a program of a Debian package: from PATH, else unpacked without being installed. Skip if it cannot be had.

    Args:
        package: Such as `prometheus`.
        program: Its path below the package's root, such as `usr/bin/promtool`.
    """
    found = shutil.which(Path(program).name)
    if found:
        return Path(found)
    folder = _cache() / f"debian-{package}"
    if not (folder / program).exists():
        _unpack(package, folder)
    return folder / program


def debian_library(package: str, name: str) -> Path:
    """Return a shared library of a Debian package, to be preloaded: installed, else unpacked. Skip if it cannot be had.

    Args:
        package: Such as `libfaketime`.
        name: Its path below the folder of libraries, such as `faketime/libfaketimeMT.so.1`.
    """
    # Between the two is the machine's architecture.
    pattern = f"usr/lib/*/{name}"
    installed = sorted(Path("/").glob(pattern))
    if installed:
        return installed[0]
    folder = _cache() / f"debian-{package}"
    if not folder.exists():
        _unpack(package, folder)
    return next(folder.glob(pattern))


def _unpack(package: str, folder: Path) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        pytest.skip(
            f"no {package} here and no apt-get to fetch it: install {package} to run this test"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        fetched = subprocess.run(
            ["apt-get", "download", package],
            cwd=made, capture_output=True, text=True, check=False, timeout=_DOWNLOAD_S,
        )  # fmt: skip
        archives = list(Path(made).glob("*.deb"))
        if fetched.returncode or not archives:
            pytest.skip(f"{package} cannot be downloaded: {fetched.stderr.strip()[-200:]}")
        unpacked = Path(made) / "unpacked"
        subprocess.run(["dpkg-deb", "-x", str(archives[0]), str(unpacked)], check=True)
        try:
            # Renamed when whole, so that a second test process never runs half a program.
            unpacked.rename(folder)
        except OSError:
            assert folder.exists(), f"{package} was neither unpacked here nor by another process"


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "beeyard"
