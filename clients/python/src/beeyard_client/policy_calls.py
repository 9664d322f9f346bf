"""The client's methods about policies: hand one in, look at versions, go back, follow decisions."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

from beeyard.queen.v1 import policy_service_pb2 as pb
from beeyard.queen.v1 import policy_service_pb2_grpc as rpc

from beeyard_client import limits
from beeyard_client import policy_wire as wire
from beeyard_client.connection import QueenConnection
from beeyard_client.policy import (
    CompiledPolicy,
    Decision,
    PolicyLanguage,
    PolicySource,
    PolicyTemplate,
    PolicyVersion,
    Validation,
)
from beeyard_client.simulation import (
    SimulatedPool,
    SimulationProgress,
    SimulationReport,
    SyntheticLoad,
)
from beeyard_client.simulation_wire import load_to_wire, pools_to_wire, told


class PolicyCalls(QueenConnection):
    """What can be asked of a queen about policies."""

    async def validate_policy(self, text: str, language: PolicyLanguage = "lua") -> Validation:
        """Check a policy on the queen's present state and generated ones; nothing changes.

        Args:
            text: The policy.
            language: What it is written in.
        """
        request = pb.ValidatePolicyRequest(source=wire.source_to_wire(language, text))
        answer = await self._ask(
            self._policies().ValidatePolicy, request, deadline_ms=limits.POLICY_DEADLINE_MS
        )
        return wire.validation(answer)

    async def deploy_policy(
        self,
        text: str,
        language: PolicyLanguage = "lua",
        *,
        name: str = "",
        note: str = "",
        author: str = "",
        expected_active_version: int | None = None,
    ) -> PolicyVersion:
        """Make a policy the one that decides; return its version when it does.

        `POLICY_INVALID` tells line and column in the error's metadata. Idempotent by content.

        Args:
            text: The policy.
            language: What it is written in.
            name: Its name; empty: the one that it gives itself.
            note: What it is for.
            author: Who deploys it; the queen takes it as given.
            expected_active_version: Deploy only while this version is active, otherwise `STALE_POLICY_VERSION`; 0 is
                the platform policy, None deploys in any case.
        """
        request = pb.DeployPolicyRequest(
            source=wire.source_to_wire(language, text),
            name=wire.carried("name", name),
            note=wire.carried("note", note),
            author=wire.carried("author", author),
            expected_active_version=wire.number_to_wire(
                "expected_active_version", expected_active_version
            ),
        )
        answer = await self._ask(
            self._policies().DeployPolicy, request, deadline_ms=limits.POLICY_DEADLINE_MS
        )
        return wire.version(answer)

    async def policy_versions(
        self, *, name: str = "", page_size: int = 0
    ) -> AsyncIterator[PolicyVersion]:
        """Yield what was deployed, newest first and without sources, page by page as they are asked for.

        Args:
            name: Only versions of this name; empty: any.
            page_size: Versions a request, 1 to 1000; 0: the queen's choice.

        Yields:
            Each version once.
        """
        page_token = ""
        while True:
            request = pb.ListPolicyVersionsRequest(
                page_size=page_size, page_token=page_token, name=wire.carried("name", name)
            )
            page = await self._ask(self._policies().ListPolicyVersions, request)
            for one in page.versions:
                yield wire.version(one)
            # A queen that gives the same token again would keep us here for ever.
            if not page.next_page_token or page.next_page_token == page_token:
                return
            page_token = page.next_page_token

    async def policy_version(self, version: int | None = None) -> PolicyVersion:
        """Return one version with its source; without a number the active one. 0 is the platform policy."""
        request = pb.GetPolicyVersionRequest(version=wire.number_to_wire("version", version))
        return wire.version(await self._ask(self._policies().GetPolicyVersion, request))

    async def rollback_policy(self, version: int | None = None) -> PolicyVersion:
        """Make an earlier version active again and return it.

        Args:
            version: Its number, 0 for the platform policy. None: the one that was active before; a second call would
                undo the first, so this one is never tried again by itself.
        """
        request = pb.RollbackPolicyRequest(version=wire.number_to_wire("version", version))
        answer = await self._ask(
            self._policies().RollbackPolicy,
            request,
            deadline_ms=limits.POLICY_DEADLINE_MS,
            once=version is None,
        )
        return wire.version(answer)

    async def platform_source(self) -> PolicySource:
        """Return the source of the platform policy, to be read or copied."""
        request = pb.GetPlatformSourceRequest()
        return wire.source(await self._ask(self._policies().GetPlatformSource, request))

    async def compile_policy(self, text: str, language: PolicyLanguage = "yaml") -> CompiledPolicy:
        """Compile rules to the Lua that would run; Lua comes back as it is."""
        request = pb.CompilePolicyRequest(source=wire.source_to_wire(language, text))
        return wire.compiled(await self._ask(self._policies().CompilePolicy, request))

    async def templates(self) -> tuple[PolicyTemplate, ...]:
        """Return the policies to start from, by name."""
        answer = await self._ask(self._policies().ListTemplates, pb.ListTemplatesRequest())
        return tuple(wire.template(one) for one in answer.templates)

    async def watch_decisions(
        self, *, job_id: str = "", include_waits: bool = False
    ) -> AsyncGenerator[Decision, None]:
        """Yield decisions as they are made, from now on.

        Args:
            job_id: Only decisions about this job; empty: any.
            include_waits: Decisions to wait as well, at most one a second.

        Yields:
            Decisions, for as long as the connection holds; a break raises, since what was missed is not told again.
        """
        request = pb.WatchDecisionsRequest(
            job_id=wire.carried("job_id", job_id), include_waits=include_waits
        )
        async with aclosing(self._follow(self._policies().WatchDecisions, request)) as decisions:
            async for one in decisions:
                yield wire.decision(one)

    async def simulate_policy(
        self,
        load: SyntheticLoad | bytes,
        *,
        text: str | None = None,
        language: PolicyLanguage = "lua",
        builtin: str = "",
        pools: Sequence[SimulatedPool] = (),
        seed: int = 0,
    ) -> AsyncGenerator[SimulationProgress | SimulationReport, None]:
        """Run a policy in virtual time on the queen's own decision code; no real job is touched.

        Args:
            load: What it is tried on: made up, or a recorded trace.
            text: The policy; None: `builtin`, or the active one.
            language: What it is written in.
            builtin: `platform`, `fifo` or `least-loaded` instead of a text.
            pools: The fleet; empty: the queen's own as it is now.
            seed: Of everything that is left to chance.

        Yields:
            Progress, at least once a second, and last one report. Closing it early stops the simulation.
        """
        request = pb.SimulatePolicyRequest(
            source=None if text is None else wire.source_to_wire(language, text),
            pools=pools_to_wire(pools),
            seed=wire.number_to_wire("seed", seed) or 0,
            builtin=wire.carried("builtin", builtin),
        )
        if isinstance(load, bytes):
            request.trace = load
        else:
            request.synthetic.CopyFrom(load_to_wire(load))
        async with aclosing(self._follow(self._policies().SimulatePolicy, request)) as answers:
            async for one in answers:
                yield told(one)

    def _policies(self) -> "rpc.PolicyServiceAsyncStub":
        return rpc.PolicyServiceStub(self._open_channel())
