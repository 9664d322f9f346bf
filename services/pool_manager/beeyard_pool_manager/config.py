"""What a pool manager can be told, by flags, `BEEYARD_POOL_MANAGER_*` or `[pool_manager]` in `beeyard.toml`."""

import shlex
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from beeyard_core import limits
from beeyard_runtime.config import DialingSettings
from beeyard_runtime.flags import parse_flags
from beeyard_runtime.lifecycle import ConfigInvalid
from pydantic import Field, field_validator

from beeyard_pool_manager.model_source import ModelSource, ModelSourceInvalid, parse_model

SLOTS_DEFAULT = 4
CONTEXT_TOKENS_DEFAULT = 2_048
_CONTEXT_TOKENS_MAX = 1 << 24


class PoolManagerSettings(DialingSettings):
    """Settings of one pool manager.

    Attributes:
        listen: HOST:PORT of the PoolManagerService.
        admin_listen: HOST:PORT of channelz, health and reflection; port 0 takes a free one.
        metrics_listen: `host:port` where Prometheus reads figures, under /metrics; port 0 takes a free one, an empty
            text means not at all.
        queen: HOST:PORT of the queen; empty: this host stands alone.
        pool_id: The host's id; the host name if not set.
        work_dir: Records and logs of workers; belongs to one pool manager at a time.
        models_dir: Folder of GGUF files; None: only the named models.
        cache_dir: Where packaged models are joined; None: within the work folder.
        model: One more model as NAME=SOURCE, where SOURCE is a GGUF file, package:NAME, synthetic:TOKENS_PER_SECOND, or
            http://HOST:PORT/v1#UPSTREAM-MODEL; may be repeated.
        inventory: `auto`, `nvml`, `cpu`, or a scripted inventory file.
        cost_per_token: What a generated token costs here, in any unit that all hosts share; for scheduling policies.
        geo: Where the host stands, as LATITUDE,LONGITUDE in degrees; empty: nobody knows. For scheduling policies.
        capability: What the host is good for, such as image-gen; for scheduling policies.
        report_interval_ms: Time between two snapshots until the queen says otherwise, milliseconds.
        slots: Answers that each worker generates at once.
        context_tokens: Longest prompt plus answer of one job, in tokens, where the model allows it.
        threads: Engine threads of each worker; 0: the worker's own choice.
        leave_workers: Keep the workers when this process is stopped, for an upgrade; a successor adopts them.
        worker_stop_grace_ms: How long a stopped worker's running work may go on, milliseconds.
        worker_start_timeout_ms: How long a worker may take until it listens, milliseconds.
        supervisor_grace_ms: How long workers live without a pool manager, milliseconds.
        worker_command: How a worker is called, as a shell would split it; empty: this Python's `-m beeyard_worker`.
    """

    listen: str = "127.0.0.1:7701"
    admin_listen: str = "127.0.0.1:0"
    metrics_listen: str = "127.0.0.1:0"
    queen: str = "127.0.0.1:7700"
    pool_id: Annotated[str, Field(min_length=1, max_length=limits.ID_BYTES_MAX)] = Field(
        default_factory=socket.gethostname
    )
    work_dir: Path = Path("beeyard-pool")
    models_dir: Path | None = None
    cache_dir: Path | None = None
    model: list[str] = Field(default_factory=list)
    inventory: Annotated[str, Field(min_length=1)] = "auto"
    cost_per_token: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    geo: str = ""
    capability: Annotated[str, Field(max_length=limits.LABEL_BYTES_MAX)] = ""
    report_interval_ms: Annotated[
        int, Field(ge=limits.REPORT_INTERVAL_MS_MIN, le=limits.REPORT_INTERVAL_MS_MAX)
    ] = limits.REPORT_INTERVAL_MS
    slots: Annotated[int, Field(ge=1, le=limits.SLOTS_MAX)] = SLOTS_DEFAULT
    context_tokens: Annotated[int, Field(ge=1, le=_CONTEXT_TOKENS_MAX)] = CONTEXT_TOKENS_DEFAULT
    threads: Annotated[int, Field(ge=0, le=1_024)] = 0
    leave_workers: bool = False
    worker_stop_grace_ms: Annotated[int, Field(ge=0, le=limits.STOP_GRACE_MS_MAX)] = (
        limits.WORKER_STOP_GRACE_MS
    )
    worker_start_timeout_ms: Annotated[int, Field(ge=1, le=limits.WORKER_LOAD_TIMEOUT_MS)] = (
        limits.WORKER_START_TIMEOUT_MS
    )
    supervisor_grace_ms: Annotated[int, Field(ge=1, le=limits.STOP_GRACE_MS_MAX)] = (
        limits.SUPERVISOR_GRACE_MS
    )
    worker_command: str = ""

    @field_validator("model")
    @classmethod
    def _check_models(cls, texts: list[str]) -> list[str]:
        names = [parse_model(text)[0] for text in texts]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ModelSourceInvalid(f"the model {twice} is given twice")
        return texts

    @field_validator("geo")
    @classmethod
    def _is_a_place(cls, text: str) -> str:
        _place_of(text)
        return text

    @field_validator("worker_command")
    @classmethod
    def _check_command(cls, text: str) -> str:
        shlex.split(text)
        return text

    def place(self) -> tuple[float, float] | None:
        """Return where the host stands, in degrees north and east; None if nobody said so."""
        return _place_of(self.geo)

    def models(self) -> dict[str, ModelSource]:
        """Return the named models by name."""
        return dict(parse_model(text) for text in self.model)

    def worker_program(self) -> list[str]:
        """Return the program and first arguments of a worker."""
        return shlex.split(self.worker_command) or [sys.executable, "-m", "beeyard_worker"]


def _place_of(text: str) -> tuple[float, float] | None:
    """Return LATITUDE,LONGITUDE as numbers."""
    if not text:
        return None
    try:
        latitude, longitude = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError("write LATITUDE,LONGITUDE in degrees, such as 52.5,13.4") from None
    if not (-90 <= latitude <= 90 and -180 <= longitude <= 180):
        raise ValueError("a latitude is -90 to 90 degrees, a longitude -180 to 180")
    return latitude, longitude


def read_settings(arguments: Sequence[str]) -> PoolManagerSettings:
    """Return the settings out of flags, environment and file.

    Raises:
        ConfigInvalid: One of them is wrong.
    """
    given = parse_flags(
        PoolManagerSettings,
        arguments,
        role="pool-manager",
        description="Reports what this host is and does, and runs its workers.",
    )
    settings = PoolManagerSettings.load("pool_manager", overrides=given)
    if settings.models_dir is not None and not settings.models_dir.is_dir():
        raise ConfigInvalid(f"the models folder {settings.models_dir} is not there")
    return settings
