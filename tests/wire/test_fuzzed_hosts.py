"""Whatever is sent to a pool manager and to a worker, on any of their own methods: they say what is wrong, and go on.

Both are real processes, watched by their ids and their memory. As for the queen (`test_fuzzed_rpcs.py`), methods and
fields come from reflection, so that one that is added later is tried by itself; BEEYARD_SEED draws the same again.
"""

import os
from collections.abc import Callable

import pytest
from beeyard.pool.v1 import pool_manager_service_pb2 as pool_pb
from beeyard.worker.v1 import engine_service_pb2 as pb
from beeyard.worker.v1 import engine_service_pb2_grpc as rpc
from beeyard_client import BeeyardClient
from google.protobuf.message import Message

from tests.support.drawn_messages import Words
from tests.support.footprint import rss_mb
from tests.support.reflection import ServedMethod, served_methods
from tests.support.siege import Siege
from tests.support.soak import IS_SOAK, drawn_seed, figure_of, scaled
from tests.support.stack import Stack

#: To each of the two.
MESSAGES = scaled(600, 100_000)
SEED = 20_261_126
GROWTH_MB_MAX = scaled(40, 200)
#: Of the worker: one that understood this would end, as it should. It is tried with what cannot be understood, and
#: with what can at the end.
OBEYED_FOR_GOOD = "/beeyard.worker.v1.EngineService/Drain"
WORDS: Words = {
    "": ("bee", "a", "1"),
    # No model that is there and no worker that runs: whoever names them gets what was asked for.
    "model": ("none", "other"),
    "worker_id": ("w1", "w2"),
    "device": ("cpu", "gpu0"),
    "role": ("user", "assistant"),
}
ABOUT: dict[str, tuple[Message, ...]] = {
    "beeyard.worker.v1.GenerateRequest": (pb.GenerateRequest(prompt="bee", max_tokens=2),),
    "beeyard.pool.v1.StartWorkerRequest": (
        pool_pb.StartWorkerRequest(worker_id="w1", model="none"),
    ),
    "beeyard.pool.v1.StopWorkerRequest": (pool_pb.StopWorkerRequest(worker_id="w1"),),
}


async def besiege(siege: Siege, methods: list[ServedMethod]) -> None:
    """Send to each method in turn."""
    while siege.sent < MESSAGES:
        for method in methods:
            await siege.send_to(method, is_malformed=method.path == OBEYED_FOR_GOOD)


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.timeout(scaled(300, 7_200))
async def test_no_message_breaks_a_pool_manager_or_a_worker(
    record_property: Callable[[str, object], None],
) -> None:
    seed = drawn_seed() if IS_SOAK or "BEEYARD_SEED" in os.environ else SEED
    async with Stack(models={"tiny": "synthetic:2000"}) as stack:
        (worker,) = (await stack.fleet()).workers
        pids = {"pool_manager": stack.pool_manager.pid, "worker": worker.pid}
        served: set[str] = set()
        for role, address in (
            ("pool_manager", stack.pool_address),
            ("worker", stack.worker_address),
        ):
            channel = stack.channel(address)
            methods = await served_methods(channel)
            served |= {method.path.split("/")[1] for method in methods}
            siege = Siege(channel, seed, WORDS, ABOUT)
            began_mb = rss_mb(pids[role])
            await besiege(siege, methods)
            grown_mb = rss_mb(pids[role]) - began_mb
            assert not siege.wrong, "\n".join((f"BEEYARD_SEED={seed}", *siege.wrong))
            assert grown_mb < GROWTH_MB_MAX, role
            # Not all was refused at the door.
            assert siege.codes.keys() >= {"OK", "INVALID_ARGUMENT"}, role
            figure_of(
                record_property,
                f"fuzzed messages to a {role.replace('_', ' ')}, on each of its methods",
                n=siege.sent,
                methods=len(methods),
                seed=seed,
                grown_mib=round(grown_mb),
                codes=dict(siege.codes.most_common()),
            )
        assert served >= {"beeyard.pool.v1.PoolManagerService", "beeyard.worker.v1.EngineService"}
        async with BeeyardClient(stack.queen_address) as client:
            assert await client.infer("bee", model="tiny", max_tokens=4).text()
        # The same processes, to the end; and the worker still obeys what it understands.
        (same,) = (await stack.fleet()).workers
        assert same.pid == worker.pid
        assert stack.pool_manager.pid == pids["pool_manager"]
        assert stack.pool_manager.is_running
        engine = rpc.EngineServiceStub(stack.channel(stack.worker_address))
        status = await engine.Drain(pb.DrainRequest(), timeout=20)
        assert status.state == pb.WORKER_STATE_DRAINING
