"""`GET /v1/models` and `/v1/models/{model}`: every model that the fleet offers, loaded or not."""

from typing import Any

from beeyard.queen.v1 import fleet_service_pb2 as pb
from beeyard_core.refusal import Refusal

from beeyard_gateway.exchange import Exchange
from beeyard_gateway.faults import Fault
from beeyard_gateway.queen_link import QueenLink


class Models:
    """The list and its entries."""

    def __init__(self, link: QueenLink) -> None:
        """Ask this queen."""
        self._link = link

    async def list_all(self, exchange: Exchange) -> None:
        """Answer with every model."""
        models = [_shown(one) for one in await self._models()]
        await exchange.reply_json({"object": "list", "data": models})

    async def get(self, exchange: Exchange) -> None:
        """Answer with one model."""
        name = exchange.in_path("model")
        for one in await self._models():
            if one.model == name:
                await exchange.reply_json(_shown(one))
                return
        raise Fault(Refusal.MODEL_NOT_FOUND, "there is no such model", field="model")

    async def _models(self) -> list[pb.FleetModel]:
        request = pb.ListModelsRequest()
        return list((await self._link.ask(self._link.fleet.ListModels, request)).models)


def _shown(model: pb.FleetModel) -> dict[str, Any]:
    return {
        "id": model.model,
        "object": "model",
        # OpenAI's clients want a time; nobody here knows when a model was made.
        "created": 0,
        "owned_by": "beeyard",
        "context_tokens": model.context_tokens,
        "quantization": model.quantization,
        "workers_ready": model.workers_ready,
    }
