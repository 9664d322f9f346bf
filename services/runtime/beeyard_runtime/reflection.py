"""Server reflection under both of its names, so that old and new grpcurl can list and describe every service.

grpcio ships only `grpc.reflection.v1alpha`. The two versions have the same messages on the wire, so one servicer
answers both; only the descriptors of v1 are made here, by renaming those of v1alpha.
"""

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import _async as reflection_aio
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

_ALPHA = "grpc.reflection.v1alpha"
_V1 = "grpc.reflection.v1"
_V1_FILE = "grpc/reflection/v1/reflection.proto"
SERVICE_V1ALPHA = f"{_ALPHA}.ServerReflection"
SERVICE_V1 = f"{_V1}.ServerReflection"


def add_reflection(services: list[str], server: grpc.aio.Server) -> None:
    """Register reflection of `services` and of itself, under v1 and v1alpha."""
    pool = descriptor_pool.Default()
    _describe_v1(pool)
    servicer = reflection_aio.ReflectionServicer(
        [*services, SERVICE_V1, SERVICE_V1ALPHA], pool=pool
    )
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    # Missing in the stubs.
    server.add_registered_method_handlers(  # type: ignore[attr-defined]
        SERVICE_V1, {"ServerReflectionInfo": method}
    )


def _describe_v1(pool: descriptor_pool.DescriptorPool) -> None:
    try:
        pool.FindFileByName(_V1_FILE)
    except KeyError:
        pool.AddSerializedFile(_renamed().SerializeToString())


def _renamed() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    file.name = _V1_FILE
    file.package = _V1
    file.ClearField("options")
    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = _rename(field.type_name)
    for service in file.service:
        for method in service.method:
            method.input_type = _rename(method.input_type)
            method.output_type = _rename(method.output_type)
    return file


def _rename(type_name: str) -> str:
    return type_name.replace(f".{_ALPHA}.", f".{_V1}.")
