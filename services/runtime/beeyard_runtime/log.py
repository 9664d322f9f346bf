"""Structured logs on stderr: one event name a line, ids as fields, never prompt or output text.

stdout belongs to `lifecycle.announce`. Records of other libraries (grpc, asyncio, opentelemetry) go through the same
renderer, so a JSON log stays JSON when something unexpected speaks up.
"""

import logging
import sys
from typing import Literal, TypeAlias, cast

from beeyard_runtime.plain_structlog import structlog

FilteringBoundLogger: TypeAlias = structlog.typing.FilteringBoundLogger
Processor: TypeAlias = structlog.typing.Processor
LogFormat = Literal["json", "console"]
_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
LEVELS = tuple(_LEVELS)
#: Libraries that tell each request at level info, with its address, in which an operator may have put a password.
_TALKATIVE = ("httpx", "httpcore")


def setup_log(service: str, *, fmt: LogFormat = "console", level: str = "info") -> None:
    """Send every log line of this process to stderr in one format.

    Args:
        service: The role, such as `queen`; a field of every line.
        fmt: `json` for machines, `console` for people.
        level: `debug`, `info`, `warning` or `error`.

    Raises:
        ValueError: The level is none of these.
    """
    if level.lower() not in _LEVELS:
        raise ValueError(f"log level {level!r} is none of {', '.join(LEVELS)}")
    threshold = _LEVELS[level.lower()]
    shared = _shared_processors(service)
    render = _renderer(fmt)
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=_stderr,
    )
    _capture_foreign(shared, render, threshold)


def get_log(name: str) -> FilteringBoundLogger:
    """Return the logger of one room; `name` becomes the field `room`."""
    return cast("FilteringBoundLogger", _RoomLog(name))


class _RoomLog:
    """Binds its logger once for each configuration; structlog's own proxy does so for each line, said or not."""

    def __init__(self, room: str) -> None:
        self._room = room
        self._config: dict[str, object] = {}
        self._bound: FilteringBoundLogger | None = None

    def __getattr__(self, name: str) -> object:
        config = structlog.get_config()
        if config != self._config:
            self._bound = structlog.get_logger(room=self._room).bind()
            self._config = config
        return getattr(self._bound, name)


class _Stderr:
    """Writes to whatever `sys.stderr` is at the time, as the standard library's handlers of last resort do."""

    def msg(self, message: str) -> None:
        sys.stderr.write(message + "\n")
        sys.stderr.flush()

    debug = info = warning = error = critical = exception = log = msg


def _stderr(*_args: object) -> _Stderr:
    return _Stderr()


def _shared_processors(service: str) -> list[Processor]:
    def add_service(
        _logger: object, _method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        event.setdefault("service", service)
        return event

    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_service,
    ]


def _renderer(fmt: LogFormat) -> list[Processor]:
    if fmt == "json":
        # Tracebacks as text: the structured form would carry the local variables, and with them prompts.
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]


def _keep_stdout_clean() -> None:
    # What is logged before `setup_log`, or in a test without it, must not go to stdout either.
    structlog.configure(
        processors=[structlog.processors.add_log_level, *_renderer("console")],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=_stderr,
    )


def _capture_foreign(shared: list[Processor], render: list[Processor], threshold: int) -> None:
    sink = logging.StreamHandler(sys.stderr)
    sink.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [sink]
    # Other libraries' debug lines may quote what they carry, so they are never asked for them.
    root.setLevel(max(threshold, logging.INFO))
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)


_keep_stdout_clean()
