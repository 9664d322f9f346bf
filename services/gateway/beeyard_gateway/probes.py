"""`/healthz`, `/readyz`, `/metrics` and `/openapi.json`: what machines ask about the gateway itself."""

from collections.abc import Callable
from http import HTTPStatus

from beeyard_gateway.exchange import Exchange
from beeyard_gateway.metrics import CONTENT_TYPE, GatewayMetrics
from beeyard_gateway.queen_link import QueenLink


class Probes:
    """Answers for one gateway.

    Attributes:
        is_draining: Set when the gateway is about to end, so that no new request is sent to it.
    """

    def __init__(
        self, link: QueenLink, metrics: GatewayMetrics, document: Callable[[], bytes]
    ) -> None:
        """Answer over these; `document` returns `/openapi.json`."""
        self._link = link
        self._metrics = metrics
        self._document = document
        self.is_draining = False

    async def healthy(self, exchange: Exchange) -> None:
        """Say that the process lives."""
        await exchange.reply_json({"status": "ok"})

    async def ready(self, exchange: Exchange) -> None:
        """Say whether requests are welcome: the gateway stays, and its queen takes jobs."""
        status = "ready" if await self._link.is_serving() else "queen_unreachable"
        status = "draining" if self.is_draining else status
        code = HTTPStatus.OK if status == "ready" else HTTPStatus.SERVICE_UNAVAILABLE
        await exchange.reply_json({"status": status}, status=code)

    async def metrics(self, exchange: Exchange) -> None:
        """Answer with the figures for Prometheus."""
        await exchange.reply(self._metrics.exposition(), content_type=CONTENT_TYPE)

    async def openapi(self, exchange: Exchange) -> None:
        """Answer with the description of every route."""
        await exchange.reply(self._document())
