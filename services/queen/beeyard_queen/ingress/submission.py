"""How a job gets in: checked, handed to the writer, and answered when it is durable."""

import asyncio
import random
import secrets
from dataclasses import dataclass

from beeyard_core import limits
from beeyard_core.effect import Accept, AcceptAgain
from beeyard_core.event import JobSubmitted
from beeyard_core.ids import JobId
from beeyard_core.refusal import Refused
from beeyard_core.step import conflict
from beeyard_runtime.clock import Clock
from beeyard_runtime.rpc_errors import RpcRefusal

from beeyard_queen.actor import Answers
from beeyard_queen.ingress.overload import refuse_overload
from beeyard_queen.ingress.prefix_path import PrefixPaths
from beeyard_queen.ingress.request import JobRequest, check_request
from beeyard_queen.ingress.wire import digest_of, generate_request_of, spec_of
from beeyard_queen.loop import WriterLoop
from beeyard_queen.prompts import Prompts
from beeyard_queen.store.port import JobReader
from beeyard_queen.tracing import JobTraces


@dataclass(frozen=True, slots=True)
class Accepted:
    """A job that is durable. `is_repeated`: the request id named it already."""

    job_id: JobId
    position: int
    predicted_start_ms: int
    is_repeated: bool


@dataclass(slots=True, kw_only=True)
class Submissions:
    """The way in, for `Infer` and `SubmitJob` alike."""

    loop: WriterLoop
    reader: JobReader
    prompts: Prompts
    answers: Answers
    traces: JobTraces
    clock: Clock
    #: Makes prompts known to placement by hashes; None: they are not.
    paths: PrefixPaths | None

    def new_job_id(self) -> JobId:
        """Draw the name of a job."""
        return JobId(f"job-{secrets.token_hex(16)}")

    async def submit(self, request: JobRequest, job_id: JobId) -> Accepted:
        """Submit a job and return when it is durable.

        Raises:
            RpcRefusal: The request is wrong, or nothing can run it, or the queen takes nothing now.
        """
        schema = check_request(request, seed=random.randint(0, limits.SEED_MAX))  # noqa: S311 - no secret
        refuse_overload(self.loop)
        spec = spec_of(schema)
        # Compared with nothing unless the request can be repeated.
        digest = digest_of(request) if request.request_id else b""
        if request.request_id:
            earlier = await self._earlier(spec.tenant_id, request.request_id, digest)
            if earlier is not None:
                return earlier
        generation = generate_request_of(schema)
        self.prompts.put(job_id, generation.SerializeToString())
        self.traces.submitted(job_id, self.clock.now())
        waiter: asyncio.Future[Accept | AcceptAgain | Refused]
        waiter = asyncio.get_running_loop().create_future()
        self.answers.submitters[job_id] = waiter
        self.loop.post(
            JobSubmitted(
                job_id=job_id,
                spec=spec,
                request_id=request.request_id,
                digest=digest,
                prefix=self.paths.path_of(generation, tenant_id=spec.tenant_id, model=spec.model)
                if self.paths
                else (),
            )
        )
        answer = await waiter
        if isinstance(answer, Refused):
            raise RpcRefusal(answer)
        if isinstance(answer, AcceptAgain):
            return Accepted(answer.job_id, 0, 0, is_repeated=True)
        return Accepted(job_id, answer.position, answer.predicted_start_ms, is_repeated=False)

    async def _earlier(self, tenant_id: str, request_id: str, digest: bytes) -> Accepted | None:
        """Find the job of a request id that the core no longer keeps in memory."""
        row = await self.reader.job_by_request(tenant_id, request_id)
        if row is None or JobId(row.job_id) in self.loop.state.jobs:
            return None
        if row.digest != digest:
            raise RpcRefusal(conflict())
        return Accepted(JobId(row.job_id), 0, 0, is_repeated=True)
