"""`/v2/stats` and `/v2/forecast`: what became of jobs, and how good the predictions were."""

from beeyard.queen.v1 import history_service_pb2 as pb

from beeyard_gateway.exchange import Exchange
from beeyard_gateway.faults import invalid
from beeyard_gateway.message_json import number_of, to_json
from beeyard_gateway.queen_link import QueenLink

#: The last moment that a timestamp can name, 9999-12-31.
_MOMENT_MS_MAX = 253_402_300_799_999


class History:
    """Looks back."""

    def __init__(self, link: QueenLink) -> None:
        """Answer out of what this queen remembers."""
        self._link = link

    async def statistics(self, exchange: Exchange) -> None:
        """Answer with what became of jobs."""
        by = exchange.in_query("by") or "tenant"
        number = number_of(pb.GroupBy.DESCRIPTOR, by, "by")
        request = pb.GetJobStatisticsRequest(group_by=pb.GroupBy.ValueType(number))
        _add(request, exchange)
        told = await self._link.ask(self._link.history.GetJobStatistics, request)
        await exchange.reply_json(to_json(told))

    async def forecast(self, exchange: Exchange) -> None:
        """Answer with how often what was predicted came."""
        request = pb.GetForecastReportRequest()
        _add(request, exchange)
        told = await self._link.ask(self._link.history.GetForecastReport, request)
        await exchange.reply_json(to_json(told))


def _add(
    request: pb.GetJobStatisticsRequest | pb.GetForecastReportRequest, exchange: Exchange
) -> None:
    """Add which jobs to look at."""
    request.tenant_id = exchange.in_query("tenant_id")
    request.model = exchange.in_query("model")
    for name, stamp in (("since_ms", request.since), ("until_ms", request.until)):
        if exchange.in_query(name):
            stamp.FromMilliseconds(_moment(exchange, name))


def _moment(exchange: Exchange, name: str) -> int:
    text = exchange.in_query(name)
    is_number = text.isascii() and text.isdecimal() and len(text) <= len(str(_MOMENT_MS_MAX))
    if not is_number or int(text) > _MOMENT_MS_MAX:
        raise invalid(f"{name}: milliseconds since 1970 expected", field=name)
    return int(text)
