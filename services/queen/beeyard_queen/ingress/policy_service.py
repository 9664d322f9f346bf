"""Hosts `PolicyService`: hand in a policy, look at versions, go back, follow decisions."""

import asyncio
from collections.abc import Awaitable
from contextlib import aclosing
from typing import TypeAlias, TypeVar

import grpc
from beeyard.queen.v1 import policy_service_pb2 as pb
from beeyard.queen.v1 import policy_service_pb2_grpc
from beeyard_core import limits
from beeyard_core.refusal import Refusal
from beeyard_runtime.faults import StartFailed
from beeyard_runtime.log import get_log
from beeyard_runtime.rpc_errors import refuse
from beeyard_runtime.security.callers import current
from google.protobuf.message import Message

from beeyard_queen.ingress.decision_wire import Wanted, wire_decision_of
from beeyard_queen.ingress.paging import number_of, page_size_of, token_of
from beeyard_queen.ingress.policy_wire import (
    deployment_of,
    source_of,
    wire_problem_of,
    wire_source_of,
    wire_template_of,
    wire_validation_of,
    wire_version_of,
)
from beeyard_queen.ingress.reading import answer_or_refuse
from beeyard_queen.ingress.request import refuse_unknown_fields
from beeyard_queen.ingress.simulating import Simulating
from beeyard_queen.policy.decision_feed import DecisionFeed
from beeyard_queen.policy.desk import Desk
from beeyard_queen.policy.faults import PolicyInvalid
from beeyard_queen.policy.host_process import HostGone
from beeyard_queen.policy.in_process import platform_source
from beeyard_queen.policy.program import make_program
from beeyard_queen.policy.starters import templates
from beeyard_queen.policy.validation import problem_of
from beeyard_queen.store.versions import VersionFilter

Context: TypeAlias = "grpc.aio.ServicerContext[Message, Message]"
ResultT = TypeVar("ResultT")
_log = get_log("policy")


class PolicyServicer(policy_service_pb2_grpc.PolicyServiceServicer):
    """The policy desk, for clients and operators."""

    def __init__(self, desk: Desk, decisions: DecisionFeed, simulating: Simulating) -> None:
        """Serve the desk, what is decided, and what would be."""
        self._desk = desk
        self._simulating = simulating
        self._decisions = decisions

    async def ValidatePolicy(  # noqa: N802 - the wire's name
        self, request: pb.ValidatePolicyRequest, context: Context
    ) -> pb.ValidatePolicyResponse:
        """Check a policy and change nothing."""
        refuse_unknown_fields(request)
        finding = await _tried(self._desk.validate(*source_of(request)))
        return wire_validation_of(finding)

    async def DeployPolicy(  # noqa: N802
        self, request: pb.DeployPolicyRequest, context: Context
    ) -> pb.PolicyVersion:
        """Make a policy the one that decides."""
        refuse_unknown_fields(request)
        deployment = deployment_of(request, known_author=current().caller.name)
        return wire_version_of(await _tried(self._desk.deploy(deployment)))

    async def ListPolicyVersions(  # noqa: N802
        self, request: pb.ListPolicyVersionsRequest, context: Context
    ) -> pb.ListPolicyVersionsResponse:
        """List what was deployed, newest first."""
        refuse_unknown_fields(request)
        size = page_size_of(request.page_size)
        rows = await answer_or_refuse(
            self._desk.versions(
                VersionFilter(
                    name=request.name, before=number_of(request.page_token), limit=size + 1
                )
            )
        )
        more = token_of(rows[size - 1].version) if len(rows) > size else ""
        return pb.ListPolicyVersionsResponse(
            versions=[wire_version_of(row) for row in rows[:size]], next_page_token=more
        )

    async def GetPolicyVersion(  # noqa: N802
        self, request: pb.GetPolicyVersionRequest, context: Context
    ) -> pb.PolicyVersion:
        """Return one version with its source."""
        refuse_unknown_fields(request)
        number = request.version if request.HasField("version") else None
        return wire_version_of(await answer_or_refuse(self._desk.version(number)))

    async def RollbackPolicy(  # noqa: N802
        self, request: pb.RollbackPolicyRequest, context: Context
    ) -> pb.PolicyVersion:
        """Make an earlier version active again."""
        refuse_unknown_fields(request)
        number = request.version if request.HasField("version") else None
        return wire_version_of(await _tried(self._desk.rollback(number)))

    async def GetPlatformSource(  # noqa: N802
        self, request: pb.GetPlatformSourceRequest, context: Context
    ) -> pb.PolicySource:
        """Return the platform policy's text."""
        refuse_unknown_fields(request)
        return wire_source_of("lua", platform_source())

    async def CompilePolicy(  # noqa: N802
        self, request: pb.CompilePolicyRequest, context: Context
    ) -> pb.CompilePolicyResponse:
        """Return the Lua that would run, or what is wrong."""
        refuse_unknown_fields(request)
        language, text = source_of(request)
        async with self._desk.turns.turn():
            try:
                program = await asyncio.to_thread(make_program, language, text.encode())
            except PolicyInvalid as invalid:
                return pb.CompilePolicyResponse(problems=[wire_problem_of(problem_of(invalid))])
        return pb.CompilePolicyResponse(lua=program.lua.decode())

    async def SimulatePolicy(  # type: ignore[override]  # noqa: N802
        self, request: pb.SimulatePolicyRequest, context: Context
    ) -> None:
        """Try a policy in virtual time; the simulation ends with the call."""
        refuse_unknown_fields(request)
        async with aclosing(self._simulating.answer(request)) as answers:
            async for answer in answers:
                await context.write(answer)

    async def WatchDecisions(  # type: ignore[override]  # noqa: N802
        self, request: pb.WatchDecisionsRequest, context: Context
    ) -> None:
        """Send each decision as it is made, until the queen shuts down."""
        refuse_unknown_fields(request)
        with self._decisions.watch(Wanted(request.job_id, request.include_waits)) as watch:
            # Tells the caller that it watches: what is decided from now on is sent.
            await context.send_initial_metadata(())
            async for sequence, record in watch.decisions():
                await context.write(wire_decision_of(sequence, record))
        raise refuse(
            Refusal.DRAINING,
            "the queen is shutting down; watch again in a moment",
            retry_after_ms=limits.RECONNECT_MAX_MS,
        )

    async def ListTemplates(  # noqa: N802
        self, request: pb.ListTemplatesRequest, context: Context
    ) -> pb.ListTemplatesResponse:
        """List the policies to start from."""
        refuse_unknown_fields(request)
        return pb.ListTemplatesResponse(templates=[wire_template_of(one) for one in templates()])


async def _tried(work: Awaitable[ResultT]) -> ResultT:
    """Wait for what needs the store and the sandbox, and say which of them does not work."""
    try:
        return await answer_or_refuse(work)
    except (HostGone, StartFailed) as fault:
        _log.error("policy_sandbox_fault", fault=str(fault))
        raise refuse(
            Refusal.INTERNAL,
            "the policy sandbox does not work now, and nothing was changed; the queen's log says why",
            retry_after_ms=limits.RECONNECT_MAX_MS,
        ) from None
