"""The Go toolchain as tests use it: absent is a reason to skip, present and failing is a failure."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

CLIENT = Path(__file__).resolve().parents[2] / "clients" / "go"
TOOLS = CLIENT / "tools"
GRPCURL = "github.com/fullstorydev/grpcurl/cmd/grpcurl"
BUILD_TIMEOUT_S = 500


def go() -> str:
    """Return the path of the go command; skip the test when there is none."""
    found = shutil.which("go")
    if found is None:
        pytest.skip("go is not on PATH: install Go 1.26 or later to run this test")
    return found


def grpcurl() -> Path:
    """Return grpcurl as the tools module pins it, built into the user's cache once for each version."""
    pinned = (TOOLS / "go.mod").read_bytes() + (TOOLS / "go.sum").read_bytes()
    version = hashlib.sha256(pinned).hexdigest()[:16]
    binary = _cache() / f"grpcurl-{version}"
    if binary.exists():
        return binary
    command = go()
    binary.parent.mkdir(parents=True, exist_ok=True)
    # Renamed when whole, so that a second test process never runs half a binary.
    fresh = binary.with_suffix(f".{os.getpid()}")
    built = subprocess.run(
        [command, "build", "-o", str(fresh), GRPCURL],
        cwd=TOOLS,
        capture_output=True,
        text=True,
        check=False,
        timeout=BUILD_TIMEOUT_S,
    )
    assert built.returncode == 0, f"grpcurl does not build:\n{built.stderr}"
    fresh.rename(binary)
    return binary


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "beeyard"
