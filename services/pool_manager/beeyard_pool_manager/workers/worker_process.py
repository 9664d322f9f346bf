"""What is known of one worker process, as plain values."""

from dataclasses import dataclass

from beeyard_core.fleet import WorkerState


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """Everything that is decided about a worker before it starts.

    Attributes:
        source: What the engine loads: a file, `URL#upstream-model`, or tokens a second.
        device: UUID of its device.
        slots: Answers at once.
        context_tokens: Longest prompt plus answer of one job, in tokens.
        reserved_bytes: Device memory set aside for it; 0 if it needs none here.
        by_hand: Started through `StartWorker`; no queen stops it.
    """

    worker_id: str
    model: str
    engine: str
    source: str
    device: str
    slots: int
    context_tokens: int
    reserved_bytes: int = 0
    by_hand: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """What a successor needs to find a worker again.

    Attributes:
        pid: Process id; also the id of its process group and session.
        create_time_s: When the system says that the process began, seconds since the epoch. Together with the pid it
            names a process beyond doubt, since pids are used again.
        start_wall_ms: When it was started, milliseconds since the epoch.
    """

    spec: WorkerSpec
    pid: int
    create_time_s: float
    start_wall_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerProcess:
    """One worker process as it is now, ready to be reported.

    Attributes:
        pid: 0 if it never ran.
        has_exited: The process is gone, or never ran.
        exit_code: Negative: killed by that signal. None while it runs, and where nobody could know.
        was_killed: It ended by somebody else's doing, as far as anybody can know.
        adopted: An earlier pool manager started it.
    """

    spec: WorkerSpec
    state: WorkerState
    pid: int = 0
    address: str = ""
    load_progress: float = 0.0
    memory_bytes: int = 0
    has_exited: bool = False
    exit_code: int | None = None
    failure: str = ""
    log_tail: str = ""
    start_wall_ms: int = 0
    was_killed: bool = False
    adopted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReading:
    """What a worker says of itself when asked."""

    worker_id: str
    state: WorkerState
    load_progress: float = 0.0
    failure: str = ""
