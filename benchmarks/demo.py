"""demo: a fresh clone to the demo's end, packages cached, against installing the same wheels with pip alone.

One round: both sides take most of a minute and hardly vary.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import Figure

_ROOT = Path(__file__).parent.parent
_LIMIT_S = 600


async def measure(rounds: int) -> Figure:
    """Measure the figure; `rounds` is ignored."""
    del rounds
    figure = Figure(
        "demo", "s", "pip install of the same wheels", 60.0, smaller_is_better=True, n=1
    )
    with tempfile.TemporaryDirectory(prefix="beeyard-demo-") as folder:
        clone = Path(folder) / "beeyard"
        _run(["git", "clone", "--quiet", str(_ROOT), str(clone)], _ROOT)
        figure.control_value = _timed(_install, clone)
        figure.value = _timed(_demo, clone)
    figure.ratio = figure.value / figure.control_value
    figure.spread = (figure.ratio, figure.ratio)
    figure.met = figure.value <= figure.target
    figure.load_average = os.getloadavg()[0]
    figure.note = "the target is in seconds, with packages cached; the ratio is for comparison"
    return figure


def _install(clone: Path) -> None:
    venv = clone.parent / "control"
    _run([sys.executable, "-m", "venv", str(venv)], clone)
    pip = [str(venv / "bin" / "pip"), "install", "--quiet", "--require-hashes"]
    _run([*pip, "-r", "requirements/demo.lock"], clone)


def _demo(clone: Path) -> None:
    _run(["make", "demo"], clone)


def _timed(act: object, clone: Path) -> float:
    began = time.perf_counter()
    assert callable(act)
    act(clone)
    return time.perf_counter() - began


def _run(command: list[str], folder: Path) -> None:
    # What the caller exported for its own checkout must not leak into the clone.
    env = {k: v for k, v in os.environ.items() if not k.startswith(("BEEYARD_", "VIRTUAL_ENV"))}
    subprocess.run(
        command, cwd=folder, env=env, check=True, timeout=_LIMIT_S, stdout=subprocess.DEVNULL
    )
