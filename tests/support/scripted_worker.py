"""A worker process that behaves as a test says: a real process with a real EngineService and nothing behind it.

python -m tests.support.scripted_worker BEHAVIOUR --worker-id=… (and the other flags of a worker, which it ignores)
"""

import argparse
import asyncio
import os
import signal
import subprocess
import sys

import grpc
from beeyard.worker.v1 import engine_service_pb2 as pb
from beeyard.worker.v1 import engine_service_pb2_grpc as rpc
from beeyard_runtime.lifecycle import announce

BEHAVIOURS = (
    *("serve", "stubborn", "crash", "crash-later", "mute", "impostor", "broken", "loading"),
    "clear-fault",
)


class ScriptedEngine(rpc.EngineServiceServicer):
    """Answers as its behaviour demands."""

    def __init__(self, behaviour: str, worker_id: str) -> None:
        self.behaviour = behaviour
        self.worker_id = worker_id
        self.asked = 0
        self.ended = asyncio.Event()
        self.state = {
            "loading": pb.WORKER_STATE_STARTING,
            "broken": pb.WORKER_STATE_FAILED,
        }.get(behaviour, pb.WORKER_STATE_READY)

    async def GetStatus(  # noqa: N802
        self,
        request: pb.GetStatusRequest,
        context: grpc.aio.ServicerContext,  # type: ignore[type-arg]
    ) -> pb.EngineStatus:
        assert request.supervisor_id
        self.asked += 1
        if self.behaviour == "crash-later" and self.asked > 1:
            say("the engine caught fire")
            os._exit(7)
        return self._status()

    async def Drain(  # noqa: N802
        self,
        request: pb.DrainRequest,
        context: grpc.aio.ServicerContext,  # type: ignore[type-arg]
    ) -> pb.EngineStatus:
        self.drain()
        return self._status()

    async def Generate(  # type: ignore[override]  # noqa: N802
        self,
        request: pb.GenerateRequest,
        context: grpc.aio.ServicerContext,  # type: ignore[type-arg]
    ) -> None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED)

    def drain(self) -> None:
        self.state = pb.WORKER_STATE_DRAINING
        if self.behaviour != "stubborn":
            self.ended.set()

    def _status(self) -> pb.EngineStatus:
        is_ready = self.state == pb.WORKER_STATE_READY
        return pb.EngineStatus(
            worker_id="somebody-else" if self.behaviour == "impostor" else self.worker_id,
            state=self.state,
            load_progress=1.0 if is_ready else 0.25,
            failure="the weights are of wax" if self.behaviour == "broken" else "",
        )


def say(text: str) -> None:
    """Write a line of log."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


async def main(behaviour: str, worker_id: str, *, with_child: bool) -> None:
    """Run until told to end."""
    engine = ScriptedEngine(behaviour, worker_id)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, engine.drain)
    if behaviour == "mute":
        await engine.ended.wait()
        return
    server = grpc.aio.server()
    rpc.add_EngineServiceServicer_to_server(engine, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    if with_child:
        child = [sys.executable, "-c", "import signal; signal.pause()"]
        subprocess.Popen(child, stdin=subprocess.DEVNULL)  # noqa: ASYNC220 - the test wants an orphan
    print("a library greets on stdout")  # noqa: T201
    announce("worker", f"127.0.0.1:{port}", worker_id=worker_id)
    await engine.ended.wait()
    await server.stop(0)


def run() -> None:
    """Read the command line as a worker would, and behave."""
    flags = argparse.ArgumentParser()
    flags.add_argument("behaviour", choices=BEHAVIOURS)
    flags.add_argument("--with-child", action="store_true")
    flags.add_argument("--worker-id", required=True)
    given, _ = flags.parse_known_args()
    if given.behaviour == "crash":
        for number in range(100):
            say(f"line {number}")
        say("no such device")
        sys.exit(3)
    if given.behaviour == "clear-fault":
        say("beeyard worker: there is no such engine")
        sys.exit(1)
    asyncio.run(main(given.behaviour, given.worker_id, with_child=given.with_child))


if __name__ == "__main__":
    run()
