"""`/v2/admin/scheduler`: scheduling policies over HTTP; every route is one call of the queen's `PolicyService`."""

import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

import grpc
from beeyard.queen.v1 import policy_service_pb2 as pb
from beeyard_core import limits
from beeyard_runtime.clock import Clock

from beeyard_gateway.event_stream import EventStream, OpenStreams
from beeyard_gateway.exchange import Exchange, dump
from beeyard_gateway.faults import Fault, HttpReason, invalid
from beeyard_gateway.jobs import page_size_of
from beeyard_gateway.message_json import from_json, to_json
from beeyard_gateway.queen_link import QueenLink, fault_of

_VERSION_MAX: Final = 2**53
#: Validation runs a policy over many states, deployment does so too.
_TRIAL_TIMEOUT_MS: Final = 3 * limits.RPC_DEADLINE_MS


class Scheduler:
    """Validate, deploy, list, roll back, simulate."""

    def __init__(self, link: QueenLink, clock: Clock, streams: OpenStreams) -> None:
        """Serve the policies of this queen."""
        self._link = link
        self._clock = clock
        self._streams = streams

    async def validate(self, exchange: Exchange) -> None:
        """Check a policy without keeping it; one with errors is a successful answer that lists them."""
        request = from_json(await exchange.json(), pb.ValidatePolicyRequest)
        method = self._link.policy.ValidatePolicy
        answer = await self._link.ask(method, request, timeout_ms=_TRIAL_TIMEOUT_MS)
        await exchange.reply_json(to_json(answer))

    async def compile(self, exchange: Exchange) -> None:
        """Compile rules to the Lua that would run."""
        request = from_json(await exchange.json(), pb.CompilePolicyRequest)
        answer = await self._link.ask(self._link.policy.CompilePolicy, request)
        await exchange.reply_json(to_json(answer))

    async def deploy(self, exchange: Exchange) -> None:
        """Make a policy the active one."""
        request = from_json(await exchange.json(), pb.DeployPolicyRequest)
        method = self._link.policy.DeployPolicy
        version = await self._link.ask(method, request, timeout_ms=_TRIAL_TIMEOUT_MS)
        await exchange.reply_json(to_json(version))

    async def rollback(self, exchange: Exchange) -> None:
        """Make an earlier version active again."""
        request = from_json(await exchange.json(), pb.RollbackPolicyRequest)
        method = self._link.policy.RollbackPolicy
        version = await self._link.ask(method, request, timeout_ms=_TRIAL_TIMEOUT_MS)
        await exchange.reply_json(to_json(version))

    async def versions(self, exchange: Exchange) -> None:
        """Answer with one page of the versions, newest first."""
        request = pb.ListPolicyVersionsRequest(
            page_size=page_size_of(exchange),
            page_token=exchange.in_query("page_token"),
            name=exchange.in_query("name"),
        )
        page = await self._link.ask(self._link.policy.ListPolicyVersions, request)
        await exchange.reply_json(to_json(page))

    async def version(self, exchange: Exchange) -> None:
        """Answer with one version and its source; `active` stands for the one that decides now."""
        word = exchange.in_path("version")
        request = pb.GetPolicyVersionRequest()
        if word != "active":
            request.version = _number(word, "version")
        version = await self._link.ask(self._link.policy.GetPolicyVersion, request)
        await exchange.reply_json(to_json(version))

    async def platform_source(self, exchange: Exchange) -> None:
        """Answer with the source of the platform policy."""
        request = pb.GetPlatformSourceRequest()
        source = await self._link.ask(self._link.policy.GetPlatformSource, request)
        await exchange.reply_json(to_json(source))

    async def templates(self, exchange: Exchange) -> None:
        """Answer with the policies to start from."""
        request = pb.ListTemplatesRequest()
        templates = await self._link.ask(self._link.policy.ListTemplates, request)
        await exchange.reply_json(to_json(templates))

    async def simulate(self, exchange: Exchange) -> None:
        """Simulate a policy: with `Accept: text/event-stream` progress and report as events, else the report."""
        if exchange.method == "POST":
            request = from_json(await exchange.json(), pb.SimulatePolicyRequest)
        else:
            request = _simulation_of(exchange)
        if "text/event-stream" in exchange.header(b"accept"):
            await self._stream_simulation(exchange, request)
            return
        report = await self._streams.run_whole(exchange, self._report(request))
        await exchange.reply_json(to_json(report))

    async def _report(self, request: pb.SimulatePolicyRequest) -> pb.SimulationReport:
        async with aclosing(self._simulation(request)) as messages:
            async for message in messages:
                if message.HasField("report"):
                    return message.report
        raise Fault(HttpReason.QUEEN_UNREACHABLE, "the simulation ended without a report")

    async def _stream_simulation(
        self, exchange: Exchange, request: pb.SimulatePolicyRequest
    ) -> None:
        stream = EventStream(exchange, self._clock)

        async def write() -> None:
            async with aclosing(self._simulation(request)) as messages:
                async for message in messages:
                    kind = message.WhichOneof("event") or "unknown"
                    told = dump(to_json(message).get(kind, {}))
                    await stream.write(b"event: %b\ndata: %b\n\n" % (kind.encode(), told))
            await stream.end()

        try:
            await self._streams.run(stream, exchange, write())
        except Fault as fault:
            if not stream.has_begun:
                raise
            told = dump(fault.problem(exchange.correlation_id))
            await stream.end(b"event: error\ndata: %b\n\n" % told)

    async def _simulation(
        self, request: pb.SimulatePolicyRequest
    ) -> AsyncGenerator[pb.SimulatePolicyResponse, None]:
        await self._link.connected()
        timeout_s = limits.SIMULATION_DEADLINE_MS / 1_000
        call = self._link.policy.SimulatePolicy(request, timeout=timeout_s)
        try:
            async for message in call:
                yield message
        except grpc.aio.AioRpcError as error:
            raise fault_of(error) from None
        finally:
            # Stops the simulation when the client has hung up.
            call.cancel()


def _simulation_of(exchange: Exchange) -> pb.SimulatePolicyRequest:
    """Return what a query asks: the active policy under made-up load."""
    load = pb.SyntheticLoad(
        jobs=_number(exchange.in_query("jobs") or "1000", "jobs", most=1_000_000),
        arrivals_per_s=_rate(exchange.in_query("arrivals_per_s") or "10"),
        models=[one for one in exchange.in_query("models").split(",") if one],
        tenants=_number(exchange.in_query("tenants") or "0", "tenants", most=1_000_000),
    )
    seed = _number(exchange.in_query("seed") or "0", "seed", most=limits.SEED_MAX)
    return pb.SimulatePolicyRequest(synthetic=load, seed=seed)


def _number(text: str, name: str, *, most: int = _VERSION_MAX) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 16 and int(text) <= most):
        raise invalid(f"{name}: must be a whole number, 0 to {most}", field=name)
    return int(text)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not (math.isfinite(rate) and rate > 0):
        raise invalid("arrivals_per_s: must be a number above 0", field="arrivals_per_s")
    return rate
