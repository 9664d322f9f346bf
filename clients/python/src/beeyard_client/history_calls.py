"""The client's methods about what has ended: statistics of jobs, and how good the predictions were."""

from datetime import datetime

from beeyard.queen.v1 import history_service_pb2 as pb
from beeyard.queen.v1 import history_service_pb2_grpc as rpc

from beeyard_client import history_wire as wire
from beeyard_client.connection import QueenConnection
from beeyard_client.history import ForecastReport, GroupBy, JobStatistics


class HistoryCalls(QueenConnection):
    """What can be asked of a queen about the past."""

    async def job_statistics(
        self,
        by: GroupBy = GroupBy.TENANT,
        *,
        tenant_id: str = "",
        model: str = "",
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> JobStatistics:
        """Return how many jobs ended, how, and how long they waited and took.

        Args:
            by: What to tell them apart by.
            tenant_id: Only this tenant's; empty: everybody's.
            model: Only for this model; empty: any.
            since: Only what ended then or later; None: however long ago.
            until: Only what ended before; None: up to now.
        """
        request = pb.GetJobStatisticsRequest(
            tenant_id=tenant_id,
            model=model,
            since=wire.moment_to_wire(since),
            until=wire.moment_to_wire(until),
            group_by=wire.group_by_to_wire(by),
        )
        return wire.statistics(await self._ask(self._history().GetJobStatistics, request))

    async def forecast_report(
        self,
        *,
        tenant_id: str = "",
        model: str = "",
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> ForecastReport:
        """Return how often what was predicted of jobs came; the arguments are those of `job_statistics`."""
        request = pb.GetForecastReportRequest(
            tenant_id=tenant_id,
            model=model,
            since=wire.moment_to_wire(since),
            until=wire.moment_to_wire(until),
        )
        return wire.forecast_report(await self._ask(self._history().GetForecastReport, request))

    def _history(self) -> "rpc.HistoryServiceAsyncStub":
        return rpc.HistoryServiceStub(self._open_channel())
