"""What a server says that it serves: every method of every service, with its message types, from reflection alone.

Tests that go through all methods read them here and not from a list, so that a method added later is tested too.
"""

from dataclasses import dataclass
from typing import TypeAlias

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message
from grpc_reflection.v1alpha import reflection_pb2 as pb
from grpc_reflection.v1alpha import reflection_pb2_grpc as rpc

_Call: TypeAlias = (
    "grpc.aio.StreamStreamCall[pb.ServerReflectionRequest, pb.ServerReflectionResponse]"
)


@dataclass(frozen=True)
class ServedMethod:
    """One method.

    Attributes:
        path: `/package.Service/Method`.
        request: The class of its request.
        takes_stream: Whether the client streams.
        gives_stream: Whether the server streams.
    """

    path: str
    request: type[Message]
    takes_stream: bool
    gives_stream: bool

    @property
    def is_unary(self) -> bool:
        """One message in, one message out."""
        return not self.takes_stream and not self.gives_stream


async def served_methods(channel: grpc.aio.Channel) -> list[ServedMethod]:
    """Return every method that the server behind a channel offers, reflection and health included."""
    services, files = await _describe(channel)
    pool = descriptor_pool.DescriptorPool()
    _add_all(pool, files)
    return [
        ServedMethod(
            path=f"/{service}/{method.name}",
            request=message_factory.GetMessageClass(method.input_type),
            takes_stream=method.client_streaming,
            gives_stream=method.server_streaming,
        )
        for service in services
        for method in pool.FindServiceByName(service).methods
    ]


async def _describe(
    channel: grpc.aio.Channel,
) -> tuple[list[str], dict[str, descriptor_pb2.FileDescriptorProto]]:
    ask = pb.ServerReflectionRequest
    call = rpc.ServerReflectionStub(channel).ServerReflectionInfo()
    try:
        await call.write(ask(list_services=""))
        listed = await _answer(call)
        services = [service.name for service in listed.list_services_response.service]
        files: dict[str, descriptor_pb2.FileDescriptorProto] = {}
        for service in services:
            await call.write(ask(file_containing_symbol=service))
            found = await _answer(call)
            for raw in found.file_descriptor_response.file_descriptor_proto:
                file = descriptor_pb2.FileDescriptorProto.FromString(raw)
                files[file.name] = file
        await call.done_writing()
        return services, files
    finally:
        call.cancel()


async def _answer(call: _Call) -> pb.ServerReflectionResponse:
    answer = await call.read()
    assert isinstance(answer, pb.ServerReflectionResponse), "reflection ended its stream"
    assert not answer.HasField("error_response"), answer.error_response.error_message
    return answer


def _add_all(
    pool: descriptor_pool.DescriptorPool, files: dict[str, descriptor_pb2.FileDescriptorProto]
) -> None:
    """Add files after what they import; a server may send them in any order."""
    added: set[str] = set()

    def add(name: str) -> None:
        if name in added:
            return
        added.add(name)
        for dependency in files[name].dependency:
            add(dependency)
        pool.Add(files[name])

    for name in files:
        add(name)
