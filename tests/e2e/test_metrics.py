"""Prometheus reads the figures of real processes: a queen, a pool manager and a worker after some work."""

import asyncio
import subprocess
import urllib.request

from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard.queen.v1 import inference_service_pb2_grpc as rpc

from tests.support.debian_tools import debian_tool
from tests.support.stack import Stack

#: What the linter says of names that the contract fixes: it would have seconds.
_FIXED_NAMES = ("latency_first_token_ms", "latency_decode_ms")


def scrape(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def complaints(text: str) -> list[str]:
    promtool = debian_tool("prometheus", "usr/bin/promtool")
    told = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    lines = (told.stdout + told.stderr).splitlines()
    return [line for line in lines if not line.startswith(_FIXED_NAMES)]


async def test_every_process_shows_clean_figures_of_what_it_did() -> None:
    flags = ("--engine", "synthetic", "--model", "lone", "--model-source", "500")
    async with (
        Stack(models={"tiny": "synthetic:500"}) as stack,
        stack.lone_worker("--worker-id", "w9", "--queen", stack.queen_address, *flags) as lone,
    ):
        await stack.wait_for(
            lambda fleet: any(each.status.model == "lone" for each in fleet.workers), "both models"
        )
        stub = rpc.InferenceServiceStub(stack.channel(stack.queen_address))
        for model in ("tiny", "lone"):
            request = pb.InferRequest(model=model, prompt="bee", max_tokens=20)
            kinds = [event.WhichOneof("event") async for event in stub.Infer(request)]
            assert kinds[-1] == "finished"
        addresses = [
            str(service.ready["metrics_address"])
            for service in (stack.queen, stack.pool_manager, lone)
        ]
        texts = [await asyncio.to_thread(scrape, address) for address in addresses]
    assert 'tokens_out_total{model_id="tiny"} 20.0' in texts[0]
    assert 'vram_used_bytes{device="cpu",pool_id="pool-under-test"}' in texts[1]
    assert 'model_state{model_id="tiny",pool_id="pool-under-test"' in texts[1]
    assert 'tokens_out_total{model_id="lone"} 20.0' in texts[2]
    assert 'latency_decode_ms_count{engine="synthetic"} 1.0' in texts[2]
    for text in texts:
        assert complaints(text) == []
