"""What an operator can tell the queen, by file, environment or command line."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from beeyard_core import history_limits, limits
from beeyard_core.backpressure import Overflow, QueueSettings
from beeyard_core.ids import ModelName
from beeyard_core.job import Priority
from beeyard_core.scaling import Eviction, ScaleSettings
from beeyard_core.work_yard import CapacitySettings, InferenceShare
from beeyard_runtime.config import ServiceSettings
from beeyard_runtime.faults import StartFailed
from beeyard_runtime.flags import parse_flags
from pydantic import Field, field_validator

from beeyard_queen.scales_file import read_scales


class QueenSettings(ServiceSettings):
    """Settings of the queen.

    Attributes:
        listen: `host:port` of the gRPC services.
        admin_listen: `host:port` of channelz, health and reflection.
        metrics_listen: `host:port` where Prometheus reads figures, under /metrics; port 0 takes a free one, an empty
            text means not at all.
        store: The SQLite file; made if it is not there.
        decision_journal: A folder for the decision journal, which `beeyard policy replay` repeats; `auto`: beside the
            store; `off`: none.
        audit_log: A file for the audit trail, a JSON object for each change that an operator makes; `auto`: beside the
            store; `off`: in the log only.
        default_model: What a job without a model gets; empty: the only model there is.
        keep: A model that should always have a worker, as MODEL or MODEL=N for N of them; may be repeated.
        scales: A TOML file that says how many workers each model should have at least and at most, and how long an idle
            one is kept; none: --keep alone says so.
        keep_warm_s: An idle worker is stopped after so many seconds, where neither file nor operator says anything else
            of its model; unset: it stays.
        scale_out_wait_s: A queue is long when its last job would wait for more seconds than this.
        scale_out_after_s: A model that may have more workers gets one when its queue was long for so many seconds.
        residence_s: For so many seconds a worker that has just been loaded makes room only for more urgent work.
        eviction: Which idle worker makes room: lru, the longest unused, or lfu, the one that served the fewest jobs.
        start_on_demand: Whether a worker is started for a model that nobody serves, whatever the policy decides.
        policy_config: What policies find in `context.config`, as NAME=VALUE; may be repeated. A value is a number,
            true, false or a text. The platform policy reads promote_after_ms.
        lease_ttl_ms: How long a worker may be silent before its leases expire and their jobs go to others.
        reader_stall_ms: A peer that reads nothing of a stream is cut after so many milliseconds, or half as many more.
        retention_hours: How long ended jobs with their output, and ended work, are kept.
        hold_background: Whether new background work steps aside, for five minutes at most, before hours that are
            usually full of urgent work.
        history_days: How long figures of ended jobs and leases are kept: no prompt, no output.
        history_rows: Most ended jobs, and as many leases, of which figures are kept.
        capacity_units: Units of each host for heavy work, when the host is idle.
        capacity_reserve_units: Units of each host that are never leased.
        capacity_inference: What inference has to do with units and ratings: ignored; counted, so that a running job
            takes its cost_units from heavy work, and none starts where a host has no memory left or does not say; or
            gated, so that jobs wait besides while their host is rated 10 or has no unit free.
        prefix_affinity: Whether a job goes, where it can, to a worker with the beginning of its prompt in its cache.
        queue_depth: Most jobs that may wait.
        queue_class: Most jobs of one class that may wait, what happens when the queue is full for it, or both, as
            CLASS=DEPTH, CLASS=OVERFLOW or CLASS=DEPTH:OVERFLOW; may be repeated. Classes are interactive, normal,
            batch and background.
        queue_overflow: What happens to a job that finds the queue full: reject refuses it; drop-lru lets the oldest
            background job, then the oldest batch job, make way for more urgent work; shed-low-priority refuses the
            least urgent classes first, from the high-water mark on.
        queue_high_water: The part of the queue from which on low priorities are shed.
        overdue_after_ms: How long a job waits, in all, before it is overdue.
        overdue_every: After so many starts of a model the oldest overdue job of it that could run is started before any
            other.
        work_lease_ttl_ms: How long a lease for heavy work lives without a heartbeat.
        policy_mode: lab takes any scheduling policy, and only counts what is beyond a quota; platform keeps to the
            platform policy and enforces quotas.
        tenants: A TOML file with the quotas of tenants; none: no quotas.
    """

    listen: str = "127.0.0.1:7700"
    admin_listen: str = "127.0.0.1:0"
    metrics_listen: str = "127.0.0.1:0"
    store: Path = Path("beeyard.sqlite")
    decision_journal: Annotated[str, Field(min_length=1)] = "auto"
    audit_log: Annotated[str, Field(min_length=1)] = "auto"
    default_model: str = Field(default="", max_length=limits.ID_BYTES_MAX)
    keep: list[str] = Field(default_factory=list)
    start_on_demand: bool = True
    scales: Path | None = None
    keep_warm_s: float | None = Field(
        default=None, ge=0, le=limits.KEEP_WARM_MS_MAX / 1_000, allow_inf_nan=False
    )
    scale_out_wait_s: float = Field(
        default=limits.SCALE_OUT_WAIT_MS / 1_000, gt=0, allow_inf_nan=False
    )
    scale_out_after_s: float = Field(
        default=limits.SCALE_OUT_AFTER_MS / 1_000, ge=0, allow_inf_nan=False
    )
    residence_s: float = Field(
        default=limits.RESIDENCE_MS / 1_000, ge=0, le=limits.RESIDENCE_MS_MAX / 1_000
    )
    eviction: Literal["lru", "lfu"] = "lru"
    policy_config: list[str] = Field(
        default_factory=list, max_length=limits.POLICY_CONFIG_ENTRIES_MAX
    )
    policy_mode: Literal["lab", "platform"] = "lab"
    lease_ttl_ms: int = Field(
        default=limits.LEASE_TTL_MS, ge=limits.LEASE_TTL_MS_MIN, le=limits.LEASE_TTL_MS_MAX
    )
    reader_stall_ms: int = Field(default=limits.STREAM_STALL_MS, ge=limits.STREAM_STALL_MS_MIN)
    retention_hours: float = Field(default=limits.OUTPUT_RETENTION_MS / 3_600_000, gt=0)
    hold_background: bool = False
    history_days: float = Field(
        default=history_limits.HISTORY_RETENTION_MS / (24 * 3_600_000), gt=0
    )
    history_rows: int = Field(
        default=history_limits.HISTORY_ROWS_MAX, ge=1, le=history_limits.HISTORY_ROWS_MAX
    )
    tenants: Path | None = None
    capacity_units: int = Field(
        default=limits.CAPACITY_UNITS_DEFAULT, ge=1, le=limits.CAPACITY_UNITS_MAX
    )
    capacity_reserve_units: int = Field(default=0, ge=0, le=limits.CAPACITY_UNITS_MAX)
    capacity_inference: Literal["ignored", "counted", "gated"] = "counted"
    prefix_affinity: bool = True
    queue_depth: int = Field(default=limits.QUEUE_DEPTH_MAX, ge=1, le=limits.QUEUE_DEPTH_MAX)
    queue_class: list[str] = Field(default_factory=list)
    queue_overflow: Literal["reject", "drop-lru", "shed-low-priority"] = "reject"
    queue_high_water: float = Field(default=limits.QUEUE_HIGH_WATER, gt=0, le=1)
    overdue_after_ms: int = Field(default=limits.OVERDUE_AFTER_MS, ge=0, le=limits.DEADLINE_MS_MAX)
    overdue_every: int = Field(default=limits.OVERDUE_EVERY, ge=1, le=limits.QUEUE_DEPTH_MAX)
    work_lease_ttl_ms: int = Field(
        default=limits.WORK_LEASE_TTL_MS,
        ge=limits.WORK_LEASE_TTL_MS_MIN,
        le=limits.WORK_LEASE_TTL_MS_MAX,
    )

    @field_validator("keep")
    @classmethod
    def _counts_are_numbers(cls, texts: list[str]) -> list[str]:
        for text in texts:
            model, count = _kept(text)
            if not model or not 1 <= count <= limits.SLOTS_MAX:
                raise ValueError(f"write MODEL or MODEL=N with N from 1 to {limits.SLOTS_MAX}")
        return texts

    def capacity(self) -> CapacitySettings:
        """Return what the core must know of units."""
        return CapacitySettings(
            units_per_host=self.capacity_units,
            reserve_units=self.capacity_reserve_units,
            inference=InferenceShare(self.capacity_inference),
            lease_ttl_ms=self.work_lease_ttl_ms,
        )

    @field_validator("queue_class")
    @classmethod
    def _classes_have_bounds(cls, texts: list[str]) -> list[str]:
        for text in texts:
            _bound_of(text)
        return texts

    def queue(self) -> QueueSettings:
        """Return what the core must know of the queue."""
        bounds = [_bound_of(text) for text in self.queue_class]
        return QueueSettings(
            depth_max=self.queue_depth,
            depth_max_by_class={name: depth for name, depth, _ in bounds if depth is not None},
            overflow=Overflow(self.queue_overflow),
            overflow_by_class={name: mode for name, _, mode in bounds if mode is not None},
            high_water=self.queue_high_water,
            overdue_after_ms=self.overdue_after_ms,
            overdue_every=self.overdue_every,
        )

    @field_validator("policy_config")
    @classmethod
    def _config_has_names(cls, texts: list[str]) -> list[str]:
        for text in texts:
            name, equals, _ = text.partition("=")
            if not (name and equals) or len(text.encode()) > limits.POLICY_TEXT_BYTES_MAX:
                raise ValueError(f"write NAME=VALUE, {limits.POLICY_TEXT_BYTES_MAX} bytes at most")
        return texts

    def policy_values(self) -> dict[str, str | float | bool]:
        """Return what policies find in `context.config`."""
        pairs = (text.partition("=") for text in self.policy_config)
        return {name: _value_of(value) for name, _, value in pairs}

    def journal_folder(self) -> Path | None:
        """Return where the decision journal lies; None: there is none."""
        match self.decision_journal:
            case "off":
                return None
            case "auto":
                return self.store.with_name(self.store.name + ".decisions")
            case folder:
                return Path(folder)

    def scaling(self) -> ScaleSettings:
        """Return how many workers each model should have; reads the scales file.

        Raises:
            StartFailed: The file cannot be used.
        """
        by_model, otherwise = read_scales(self.scales)
        if self.keep_warm_s is not None and otherwise.keep_warm_ms is None:
            otherwise = replace(otherwise, keep_warm_ms=round(self.keep_warm_s * 1_000))
        for model, count in map(_kept, self.keep):
            said = by_model.get(ModelName(model), otherwise)
            scale = replace(said, min_workers=max(count, said.min_workers))
            if fault := scale.fault():
                raise StartFailed(f"--keep {model}={count}: {fault.message}")
            by_model[ModelName(model)] = scale
        return ScaleSettings(
            by_model=by_model,
            otherwise=otherwise,
            scale_out_wait_ms=round(self.scale_out_wait_s * 1_000),
            scale_out_after_ms=round(self.scale_out_after_s * 1_000),
            residence_ms=round(self.residence_s * 1_000),
            eviction=Eviction(self.eviction),
        )

    def audit_file(self) -> Path | None:
        """Return where the audit trail lies; None: there is none."""
        match self.audit_log:
            case "off":
                return None
            case "auto":
                return self.store.with_name(self.store.name + ".audit.jsonl")
            case file:
                return Path(file)


def read_settings(arguments: Sequence[str]) -> QueenSettings:
    """Return the settings out of flags, environment and file.

    Raises:
        ConfigInvalid: One of them is wrong.
    """
    given = parse_flags(
        QueenSettings,
        arguments,
        role="queen",
        description="The queen admits, queues, schedules and leases.",
    )
    return QueenSettings.load("queen", overrides=given)


def _value_of(text: str) -> str | float | bool:
    """Return a number or a boolean where a text is one."""
    if text in ("true", "false"):
        return text == "true"
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text


_OVERFLOWS = {mode.value: mode for mode in Overflow}
_CLASSES = {priority.name.lower(): priority for priority in Priority}
_BOUND_FORM = (
    f"write CLASS=DEPTH, CLASS=OVERFLOW or CLASS=DEPTH:OVERFLOW, with a class out of {', '.join(_CLASSES)}, "
    f"a depth from 0 to {limits.QUEUE_DEPTH_MAX}, and one of {', '.join(_OVERFLOWS)}"
)


def _bound_of(text: str) -> tuple[Priority, int | None, Overflow | None]:
    """Split CLASS=DEPTH:OVERFLOW, of which depth or overflow may be left out."""
    name, _, told = text.partition("=")
    parts = told.split(":")
    depths = [int(part) for part in parts if part.isdecimal()]
    modes = [_OVERFLOWS[part] for part in parts if part in _OVERFLOWS]
    is_clear = max(len(depths), len(modes)) == 1 and len(depths) + len(modes) == len(parts)
    if name not in _CLASSES or not is_clear or max(depths, default=0) > limits.QUEUE_DEPTH_MAX:
        raise ValueError(_BOUND_FORM)
    return _CLASSES[name], next(iter(depths), None), next(iter(modes), None)


def _kept(text: str) -> tuple[str, int]:
    """Split MODEL=N. A model's name may hold `=` itself: what follows the last is a count only if a number."""
    model, equals, count = text.rpartition("=")
    return (model, int(count)) if equals and count.isdecimal() else (text, 1)
