"""Hosts `HistoryService`: what became of jobs, and how good the predictions were.

The figures are read on the store's thread and counted on another, so that nobody waits for a long history.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, TypeAlias

import grpc
from beeyard.queen.v1 import history_service_pb2 as pb
from beeyard.queen.v1 import history_service_pb2_grpc
from beeyard_core import history_limits
from beeyard_core.calibration import calibration_of
from beeyard_core.history import JobRecord
from beeyard_core.refusal import Refusal
from beeyard_core.statistics import statistics_of
from beeyard_runtime.rpc_errors import refuse
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from beeyard_queen.ingress.history_wire import GROUPINGS, report_message, statistics_message
from beeyard_queen.ingress.reading import answer_or_refuse
from beeyard_queen.ingress.request import refuse_unknown_fields
from beeyard_queen.store.history import HistoryFilter, HistoryReader

Context: TypeAlias = "grpc.aio.ServicerContext[Message, Message]"

# The end of the year 9999, after which no `Timestamp` is valid; protobuf refuses to convert such a one.
_LAST_SECOND: Final = 253_402_300_799
_Asked: TypeAlias = pb.GetJobStatisticsRequest | pb.GetForecastReportRequest


class HistoryServicer(history_service_pb2_grpc.HistoryServiceServicer):
    """Looks back, for clients and operators."""

    def __init__(self, history: HistoryReader) -> None:
        """Answer out of what the store remembers."""
        self._history = history

    async def GetJobStatistics(  # noqa: N802
        self, request: pb.GetJobStatisticsRequest, context: Context
    ) -> pb.JobStatistics:
        """Return what became of jobs."""
        refuse_unknown_fields(request)
        by = GROUPINGS.get(request.group_by)
        if by is None:
            message = "there is nothing of that number to tell jobs apart by"
            raise refuse(Refusal.INVALID_REQUEST, message, field="group_by")
        records, is_truncated = await self._records(request)
        statistics = await asyncio.to_thread(statistics_of, records, by)
        oldest_ms = records[-1].ended_ms if records else None
        return statistics_message(statistics, is_truncated=is_truncated, oldest_ms=oldest_ms)

    async def GetForecastReport(  # noqa: N802
        self, request: pb.GetForecastReportRequest, context: Context
    ) -> pb.ForecastReport:
        """Return how often what was predicted came."""
        refuse_unknown_fields(request)
        records, is_truncated = await self._records(request)
        calibration = await asyncio.to_thread(calibration_of, records)
        return report_message(calibration, is_truncated=is_truncated)

    async def _records(self, wanted: _Asked) -> tuple[Sequence[JobRecord], bool]:
        """Return the jobs that are asked for, the newest first, and whether there were more."""
        most = history_limits.HISTORY_READ_ROWS_MAX
        records = await answer_or_refuse(
            self._history.job_records(
                HistoryFilter(
                    tenant_id=wanted.tenant_id,
                    model=wanted.model,
                    since_ms=_wall_ms(wanted.since, "since"),
                    until_ms=_wall_ms(wanted.until, "until"),
                    limit=most + 1,
                )
            )
        )
        return records[:most], len(records) > most


def _wall_ms(stamp: Timestamp, field: str) -> int:
    """Return a moment in milliseconds since the epoch; 0: not given."""
    is_moment = 0 <= stamp.seconds <= _LAST_SECOND and 0 <= stamp.nanos < 1_000_000_000
    if not is_moment:
        message = f"{field} must lie between the years 1970 and 9999"
        raise refuse(Refusal.INVALID_REQUEST, message, field=field)
    return stamp.ToMilliseconds()
