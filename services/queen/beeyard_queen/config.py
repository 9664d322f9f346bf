"""What an operator can tell the queen, by file, environment or command line."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from beeyard_core import limits
from beeyard_runtime.config import ServiceSettings
from pydantic import Field


class QueenSettings(ServiceSettings):
    """Settings of the queen.

    Attributes:
        listen: `host:port` of the gRPC services.
        admin_listen: `host:port` of channelz, health and reflection.
        store: The SQLite file; made if it is not there.
        default_model: What a job without a model gets; empty: the only model there is.
        keep: Workers that should always run, by model.
        retention_hours: How long ended jobs and their output are kept.
    """

    listen: str = "127.0.0.1:7700"
    admin_listen: str = "127.0.0.1:0"
    store: Path = Path("beeyard.sqlite")
    default_model: str = Field(default="", max_length=limits.ID_BYTES_MAX)
    keep: dict[str, int] = Field(default_factory=dict)
    retention_hours: float = Field(default=limits.OUTPUT_RETENTION_MS / 3_600_000, gt=0)


def parse_arguments(argv: Sequence[str]) -> dict[str, object]:
    """Return what the command line sets; None where a flag was not given."""
    parser = argparse.ArgumentParser(
        prog="beeyard queen",
        description="The queen admits, queues, schedules and leases. Settings may also come from beeyard.toml, table "
        "[queen], and from BEEYARD_QUEEN_* variables; the command line wins.",
    )
    parser.add_argument("--listen", help="HOST:PORT to serve on (default 127.0.0.1:7700)")
    parser.add_argument(
        "--admin-listen", help="HOST:PORT of channelz and health (default: any free port)"
    )
    parser.add_argument("--store", help="the SQLite file of jobs (default beeyard.sqlite)")
    parser.add_argument("--default-model", help="what a job without a model gets")
    parser.add_argument(
        "--keep",
        action="append",
        metavar="MODEL[=N]",
        help="keep N workers (default 1) of a model running; may be repeated",
    )
    parser.add_argument("--retention-hours", help="how long ended jobs are kept (default 168)")
    parser.add_argument("--log-format", choices=("json", "console"))
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"))
    parser.add_argument("--otlp-endpoint", help="OTLP gRPC collector for traces")
    given = vars(parser.parse_args(argv))
    if given["keep"] is not None:
        given["keep"] = dict(_keep(text) for text in given["keep"])
    return given


def _keep(text: str) -> tuple[str, str]:
    # A model's name may hold `=`; the count cannot.
    model, equals, count = text.rpartition("=")
    return (model, count) if equals else (text, "1")
