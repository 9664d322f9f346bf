"""The authorisation matrix of hosts: every method of pool manager, worker and admin ports x {no token, each role}.

Real processes with a tokens file, asked by real calls. What would end them is asked with bytes that are no message: who
is let in is told that they are none, and nothing happens. None of these methods has to do with tenants.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import grpc
import pytest
import pytest_asyncio
from beeyard_runtime.rpc_channel import open_channel
from beeyard_runtime.security.authorization import METHODS, TenantRule
from beeyard_runtime.security.callers import Role

from tests.support.pool import queen_and_pool
from tests.support.raw_calls import ending_of
from tests.support.service import lone_worker
from tests.support.tokens import Metadata, Tokens, shows

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: Who hosts what, by the beginning of its name.
HOSTS = {
    "beeyard.pool.v1.PoolManagerService/": "pool manager",
    "beeyard.worker.v1.EngineService/": "worker",
    "grpc.channelz.": "admin port",
}
ENDS_IT = {"beeyard.worker.v1.EngineService/Drain", "beeyard.pool.v1.PoolManagerService/StopWorker"}
NO_MESSAGE = b"\xff"
KEPT_OUT = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
HOSTED = sorted(name for name in METHODS if name.startswith(tuple(HOSTS)))


@dataclass
class Hosts:
    """Channels by host, and what each role shows."""

    channels: dict[str, grpc.aio.Channel]
    shown: dict[Role, Metadata]

    async def ending(self, name: str, shown: Metadata) -> grpc.StatusCode:
        host = next(host for start, host in HOSTS.items() if name.startswith(start))
        said = NO_MESSAGE if name in ENDS_IT else b""
        return await ending_of(self.channels[host], name, said, shown)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hosts(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Hosts]:
    folder = tmp_path_factory.mktemp("hosts")
    file = Tokens(folder / "tokens.json")
    bound = {Role.POOL: {"pool_id": "pool-1"}, Role.WORKER: {"pool_id": "pool-1"}}
    shown = {role: shows(file.add(role.value, role, **bound.get(role, {}))) for role in Role}
    flags = (f"--tokens={file.path}", "--admin-listen=127.0.0.1:0")
    async with AsyncExitStack() as stack:
        _, manager = await stack.enter_async_context(queen_and_pool(folder, {}, *flags))
        worker = lone_worker("w1", *flags, log=folder / "w1.log", env={})
        await stack.enter_async_context(worker)
        addresses = {
            "pool manager": manager.address,
            "worker": worker.address,
            "admin port": str(worker.ready["admin_address"]),
        }
        channels = {host: open_channel(address) for host, address in addresses.items()}
        for channel in channels.values():
            stack.push_async_callback(channel.close, None)
        yield Hosts(channels, shown)


async def test_what_hosts_host_has_to_do_with_no_tenant() -> None:
    assert len(HOSTED) > 12
    assert {METHODS[name].tenant for name in HOSTED} == {TenantRule.NONE}


@pytest.mark.parametrize("name", HOSTED)
async def test_a_method_is_for_its_roles_and_for_nobody_else(hosts: Hosts, name: str) -> None:
    row = METHODS[name]
    assert row.roles
    assert await hosts.ending(name, ()) in {
        grpc.StatusCode.UNAUTHENTICATED,
        # Whoever asks too often without a token is told to wait.
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
    for role in Role:
        code = await hosts.ending(name, hosts.shown[role])
        if role not in row.roles:
            assert code is grpc.StatusCode.PERMISSION_DENIED, role
        elif name in ENDS_IT:
            assert code is grpc.StatusCode.INVALID_ARGUMENT, role
        else:
            assert code not in KEPT_OUT, role
            assert code is not grpc.StatusCode.UNAVAILABLE, role
