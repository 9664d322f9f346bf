"""The table of rights is whole: every method of every service and every route has a row, and no row is for nothing."""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import cast

import beeyard
import pytest
from beeyard_gateway.app import Gateway
from beeyard_gateway.config import GatewaySettings
from beeyard_gateway.routing import LIVE
from beeyard_runtime.clock import SystemClock
from beeyard_runtime.security.authorization import METHODS, ROUTES, IdentityRule, Row, TenantRule
from beeyard_runtime.security.callers import Role
from beeyard_runtime.telemetry import Telemetry
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from grpc_channelz.v1 import channelz_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

UNDER_ANOTHER_NAME = {
    # The same messages, served under both names.
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
}


def files() -> Iterator[FileDescriptor]:
    """Return the descriptors of every proto of ours, and of what every server hosts besides."""
    for found in pkgutil.walk_packages(beeyard.__path__, "beeyard."):
        if found.name.endswith("_pb2"):
            yield cast("FileDescriptor", importlib.import_module(found.name).DESCRIPTOR)
    for module in (health_pb2, reflection_pb2, channelz_pb2):
        yield cast("FileDescriptor", module.DESCRIPTOR)


def methods() -> dict[str, MethodDescriptor]:
    return {
        f"{service.full_name}/{method.name}": method
        for file in files()
        for service in file.services_by_name.values()
        for method in service.methods
    }


def test_every_method_has_a_row_and_every_row_a_method() -> None:
    known = set(methods()) | UNDER_ANOTHER_NAME
    assert len(known) > 40
    assert known - set(METHODS) == set(), "give each a row in authorization.py"
    assert set(METHODS) - known == set(), "rows of methods that are gone"


async def test_every_route_has_a_row_and_every_row_a_route() -> None:
    gateway = Gateway(GatewaySettings(listen="127.0.0.1:0"), SystemClock(), Telemetry())
    known = {f"{row.method} {row.path}" for row in gateway.rows} | {f"GET {LIVE}"}
    await gateway.link.close()
    assert known - set(ROUTES) == set(), "give each a row in authorization.py"
    assert set(ROUTES) - known == set(), "rows of routes that are gone"


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_request_is_held_to_a_tenant_only_by_a_field_that_it_has(name: str) -> None:
    if name in UNDER_ANOTHER_NAME:
        return
    method, row = methods()[name], METHODS[name]
    has_tenant = "tenant_id" in method.input_type.fields_by_name
    assert has_tenant == (row.tenant is TenantRule.ASKED), "tenant_id must be held to the caller's"
    # A stream is never audited or bound by its first message, which nobody has read yet.
    assert not (method.client_streaming and (has_tenant or row.audited))
    assert set(row.audited or ()) <= set(method.input_type.fields_by_name)


@pytest.mark.parametrize("name", sorted([*METHODS, *ROUTES]))
def test_a_row_is_of_one_piece(name: str) -> None:
    row = METHODS.get(name) or ROUTES[name]
    if row == Row(None):
        return
    assert row.roles, "nobody may do this"
    assert Role.ADMIN in row.roles or row.identity is not IdentityRule.NONE
    if row.tenant is not TenantRule.NONE:
        assert row.roles & {Role.CLIENT, Role.WORKER}, "no role of these ends at a tenant"
    if row.audited is not None:
        assert not row.roles & {Role.CLIENT}, "the trail is for what operators do"


def test_what_a_client_may_do_is_bound_to_its_tenant_or_about_everybody() -> None:
    unbound = {
        name
        for name, row in METHODS.items()
        if row.roles and Role.CLIENT in row.roles and row.tenant is TenantRule.NONE
    }
    assert {name for name in unbound if not name.startswith("grpc.")} == {
        "beeyard.queen.v1.FleetService/ListModels",
        "beeyard.queen.v1.LeaseService/GetCapacity",
    }
