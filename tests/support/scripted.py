"""Real generated services whose methods do what one test tells them to."""

from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
from beeyard.worker.v1 import engine_service_pb2 as engine_pb
from beeyard.worker.v1 import engine_service_pb2_grpc as engine_grpc
from beeyard.worker.v1 import worker_service_pb2 as worker_pb
from beeyard.worker.v1 import worker_service_pb2_grpc as worker_grpc

Context = grpc.aio.ServicerContext[object, object]
GetStatus = Callable[[engine_pb.GetStatusRequest, Context], Awaitable[engine_pb.EngineStatus]]
Generate = Callable[[engine_pb.GenerateRequest, Context], object]
Attach = Callable[[AsyncIterator[worker_pb.AttachRequest], Context], object]


ENGINE_TO_SERVER = engine_grpc.add_EngineServiceServicer_to_server
QUEEN_TO_SERVER = worker_grpc.add_WorkerServiceServicer_to_server


class _Engine(engine_grpc.EngineServiceServicer):
    pass


class _Queen(worker_grpc.WorkerServiceServicer):
    pass


def scripted_engine(
    get_status: GetStatus | None = None, generate: Generate | None = None
) -> engine_grpc.EngineServiceServicer:
    """Return an `EngineService` with these answers; what is left out answers UNIMPLEMENTED, `Drain` always."""
    engine = _Engine()  # type: ignore[abstract]  # the generated class is abstract only to mypy
    if get_status:
        engine.GetStatus = get_status  # type: ignore[method-assign,assignment]
    if generate:
        engine.Generate = generate  # type: ignore[method-assign,assignment]
    return engine


def scripted_queen(attach: Attach) -> worker_grpc.WorkerServiceServicer:
    """Return a `WorkerService`, whose `Attach` is a stream both ways, with this answer."""
    queen = _Queen()  # type: ignore[abstract]  # the generated class is abstract only to mypy
    queen.Attach = attach  # type: ignore[method-assign,assignment]
    return queen
