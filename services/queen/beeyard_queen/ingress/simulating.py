"""`SimulatePolicy`: a policy tried on a fleet and a load, in a process of its own."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from beeyard.queen.v1 import policy_service_pb2 as pb
from beeyard_core.refusal import Refusal
from beeyard_core.state import QueenState
from beeyard_runtime.log import get_log
from beeyard_runtime.rpc_errors import RpcRefusal, refuse

from beeyard_queen.ingress.policy_wire import source_of
from beeyard_queen.ingress.reading import answer_or_refuse
from beeyard_queen.ingress.simulation_request import builtin_of, fleet_of, load_of, seed_of
from beeyard_queen.ingress.simulation_wire import wire_progress_of, wire_report_of
from beeyard_queen.policy.desk import Desk
from beeyard_queen.policy.faults import PolicyInvalid
from beeyard_queen.policy.program import make_program
from beeyard_queen.simulator.own_fleet import own_fleet
from beeyard_queen.simulator.policies import PLATFORM
from beeyard_queen.simulator.request import Faulted, Progressed, Reported, SimulationRequest
from beeyard_queen.simulator.simulations import Simulations
from beeyard_queen.store.versions import PLATFORM_VERSION

_log = get_log("simulator")
_HANDED_IN: Final = "policy"


class Simulating:
    """Answers requests to simulate."""

    def __init__(self, desk: Desk, state: QueenState) -> None:
        """Simulate policies of the desk, or handed in, on the fleet of the state, or another."""
        self._desk = desk
        self._state = state
        self._simulations = Simulations()

    async def answer(
        self, request: pb.SimulatePolicyRequest
    ) -> AsyncGenerator[pb.SimulatePolicyResponse, None]:
        """Yield progress, then the report.

        Raises:
            RpcRefusal: INVALID_REQUEST, POLICY_INVALID, NO_WORKERS_AVAILABLE, QUEUE_FULL_REJECT or INTERNAL.
        """
        name, lua = await self._policy(request)
        load, trace = load_of(request)
        fleet, notes = (fleet_of(request), []) if request.pools else self._own_fleet()
        wanted = SimulationRequest(
            policy=name, lua=lua, fleet=fleet, load=load, trace=trace, seed=seed_of(request)
        )
        async with aclosing(self._simulations.run(wanted)) as telling:
            async for told in telling:
                match told:
                    case Progressed():
                        yield wire_progress_of(told)
                    case Reported():
                        yield wire_report_of(told, notes)
                    case Faulted():
                        raise _refusal(told)

    async def _policy(self, request: pb.SimulatePolicyRequest) -> tuple[str, str]:
        """Return the policy's name and text; no text for one of Beeyard's own."""
        builtin = builtin_of(request)
        if builtin:
            return builtin, ""
        if request.HasField("source"):
            language, text = source_of(request)
            name = _HANDED_IN
        else:
            row = await answer_or_refuse(self._desk.version(None))
            if row.version == PLATFORM_VERSION:
                return PLATFORM, ""
            language, text, name = row.language, row.text, row.name
        try:
            program = make_program(language, text.encode())
        except PolicyInvalid as invalid:
            fault = Faulted("policy", invalid.message, invalid.line or 0, invalid.column or 0)
            raise _refusal(fault) from None
        return program.name or name, program.lua.decode()

    def _own_fleet(self) -> tuple[str, list[str]]:
        fleet, notes = own_fleet(self._state.fleet)
        if not fleet:
            raise refuse(
                Refusal.NO_WORKERS_AVAILABLE,
                "the queen has no workers to simulate; describe a fleet in pools",
                field="pools",
            )
        return fleet, notes


def _refusal(told: Faulted) -> RpcRefusal:
    match told.kind:
        case "policy":
            place = {"line": str(told.line), "column": str(told.column)} if told.line else {}
            said = f"line {told.line}: {told.message}" if told.line else told.message
            return refuse(Refusal.POLICY_INVALID, said, field="source.text", metadata=place)
        case "scenario":
            return refuse(Refusal.INVALID_REQUEST, told.message)
        case "sandbox":
            _log.error("simulation_fault", fault=told.message)
            return refuse(
                Refusal.INTERNAL,
                "the simulation ended without a report: it took too much time or memory, or the sandbox does not work",
            )
