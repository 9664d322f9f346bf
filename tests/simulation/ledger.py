"""What must hold, looked at after every turn of every process.

The ledger believes nobody: it compares what clients were told with what is on disk, what a queen lets through with the
leases that were ever committed, what a queen acknowledges with what is durable, and every token with the answer that
the synthetic engine gives to that prompt and seed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from beeyard.worker.v1 import worker_service_pb2 as worker_pb
from beeyard_core import limits
from beeyard_core.ids import lease_id_of
from beeyard_queen.store.port import Batch, JobRow
from beeyard_queen.store.work import WorkRow
from beeyard_worker.engine.port import Generation
from beeyard_worker.engine.synthetic_answer import Words

from tests.simulation.disk import Disk
from tests.simulation.machines import Machine
from tests.simulation.rpc_server import Wrote
from tests.simulation.story import Ask, Chore
from tests.simulation.world import Process
from tests.support.core_values import check_invariants, check_quotas
from tests.support.heavy_work import check_yard

# One engine step may overshoot.
_KEPT_TOKENS_MAX = limits.UNACKNOWLEDGED_TOKENS_MAX + limits.FRAME_TOKENS_MAX
_ATTACH = "/beeyard.worker.v1.WorkerService/Attach"


def reference(ask: Ask) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the ids and texts of the answer that a job gets, however often it was interrupted."""
    generation = Generation(
        prompt=ask.prompt,
        messages=(),
        max_tokens=ask.max_tokens,
        temperature=0.8,
        top_p=0.95,
        top_k=40,
        seed=ask.seed,
        stop=(),
    )
    tokens, _ = Words(generation, ask.prompt, 0).take(0, ask.max_tokens)
    return tuple(token.id or 0 for token in tokens), tuple(token.text for token in tokens)


@dataclass(eq=False)
class Ledger:
    """Everything that was promised so far.

    Attributes:
        fail: Called with what does not hold; does not return.
        accepted: Jobs that a client was told of, with what was asked; `accepted_work` the same of heavy work.
        ended_work: The first final row of each piece of work, by request id; `done_work` who was told that it counts.
        owners: Which ask every job belongs to that the store ever had.
        cancelled: Request ids whose cancellation was asked for.
        ended: The first final row of each job.
        epochs: The highest epoch that each job was ever leased with, and the worker of it.
    """

    disk: Disk
    fail: Callable[[str], NoReturn]
    asks: dict[str, Ask]
    accepted: dict[str, Ask] = field(default_factory=dict)
    accepted_work: dict[str, Chore] = field(default_factory=dict)
    ended_work: dict[str, WorkRow] = field(default_factory=dict)
    done_work: dict[str, str] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    ended: dict[str, JobRow] = field(default_factory=dict)
    epochs: dict[str, tuple[int, str]] = field(default_factory=dict)
    leased: dict[int, str] = field(default_factory=dict)
    by_request: dict[tuple[str, str], str] = field(default_factory=dict)
    references: dict[str, tuple[tuple[int, ...], tuple[str, ...]]] = field(default_factory=dict)
    tokens_seen: int = 0
    _stale_writes: dict[Process, int] = field(default_factory=dict)
    machines: dict[str, Machine] = field(default_factory=dict)
    _looked_at: dict[Process, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Watch the disk."""
        self.disk.on_commit.append(self.committed)

    @property
    def stale_writes(self) -> int:
        """How often queens refused a write since its lease no longer counted."""
        return sum(self._stale_writes.values())

    # --- The store ---

    def committed(self, batch: Batch) -> None:
        """A batch became durable: no end is taken back, no job ends twice, no epoch is given twice."""
        for work in batch.work.values():
            self._work_committed(work)
        for row in batch.jobs.values():
            first = self.ended.get(row.job_id)
            if first is not None and (first.state, first.result) != (row.state, row.result):
                self.fail(f"{row.job_id} ended as {first.state} and then as {row.state}")
            if row.is_ended:
                self.ended.setdefault(row.job_id, row)
            self._name(row)
            self._lease(row)

    def _work_committed(self, row: WorkRow) -> None:
        first = self.ended_work.get(row.request_id)
        if first is not None and (first.state, first.epoch) != (row.state, row.epoch):
            self.fail(f"{row.work_id} ended as {first.state} and then became {row.state}")
        if row.is_ended:
            self.ended_work.setdefault(row.request_id, row)

    def _name(self, row: JobRow) -> None:
        """One request id names one job."""
        if row.request_id:
            key = (row.tenant_id, row.request_id)
            named = self.by_request.setdefault(key, row.job_id)
            if named != row.job_id:
                self.fail(f"request {row.request_id} became two jobs: {named}, {row.job_id}")

    def _lease(self, row: JobRow) -> None:
        if not row.epoch:
            return
        owner = self.leased.setdefault(row.epoch, row.job_id)
        if owner != row.job_id:
            self.fail(f"epoch {row.epoch} was given to {owner} and to {row.job_id}")
        known = self.epochs.get(row.job_id, (0, ""))
        if row.epoch < known[0]:
            self.fail(f"{row.job_id} went back from epoch {known[0]} to {row.epoch}")
        self.epochs[row.job_id] = (row.epoch, row.worker_id)

    # --- The queen ---

    def delivered(self, process: Process, job_id: str, epoch: int, worker_id: str) -> None:
        """The queen let tokens through: only the last lease of a job may write."""
        current, holder = self.epochs.get(job_id, (0, ""))
        if epoch != current or worker_id != holder:
            self.fail(
                f"{process.name} let {worker_id} write to {job_id} with epoch {epoch}, "
                f"but {holder} holds epoch {current}"
            )
        if job_id in self.ended:
            self.fail(f"{process.name} let {worker_id} write to {job_id}, which has ended")

    def wrote(self, wrote: Wrote) -> None:
        """A server sent a message."""
        if wrote.path == _ATTACH:
            orders: worker_pb.Orders = wrote.message.orders
            for ack in orders.acknowledgements:
                self._acknowledged(ack)

    def _acknowledged(self, ack: "worker_pb.TokenAcknowledgement") -> None:
        """A worker may forget: what it forgets must be durable."""
        job_id = self.leased.get(ack.epoch)
        if job_id is None or ack.lease_id != lease_id_of(ack.epoch):  # type: ignore[arg-type]
            return
        durable = self.disk.tokens_end(job_id)
        if ack.next_index > durable:
            self.fail(
                f"tokens of {job_id} were acknowledged up to {ack.next_index}, {durable} are durable"
            )
        row = self.disk.jobs[job_id]
        if ack.result_committed and row.epoch == ack.epoch and row.state in ("leased", "running"):
            self.fail(f"the result of {job_id} was acknowledged before it was durable")

    # --- Clients ---

    def was_accepted(self, ask: Ask, job_id: str) -> None:
        """A client was told that its job is accepted."""
        known = self.accepted.setdefault(job_id, ask)
        if known is not ask:
            self.fail(f"{ask.request_id} was answered with the job of {known.request_id}")
        if job_id not in self.disk.jobs:
            self.fail(f"{job_id} was accepted and is not durable")

    def work_accepted(self, chore: Chore, work_id: str) -> None:
        """A crew was told that its work is accepted."""
        known = self.accepted_work.setdefault(work_id, chore)
        if known is not chore or work_id not in self.disk.work:
            self.fail(f"{chore.request_id}: {work_id} was accepted and is not durable as that")

    def work_done(self, work_id: str, hand: str) -> None:
        """A hand was told that its work counts."""
        if work_id in self.done_work:
            self.fail(f"{work_id} was done by {self.done_work[work_id]} and again by {hand}")
        self.done_work[work_id] = hand
        row = self.disk.work[work_id]
        if not row.is_ended:
            self.fail(f"{work_id} was said to be done and is {row.state} on disk")

    def told(
        self, ask: Ask, expected: int, first_index: int, ids: tuple[int, ...], text: str
    ) -> int:
        """A client was given tokens; returns the index that must come next."""
        if first_index != expected:
            self.fail(f"{ask.request_id}: token {expected} was due, {first_index} came")
        wanted_ids, wanted_texts = self.reference(ask)
        end = first_index + len(ids)
        if ids != wanted_ids[first_index:end] or text != "".join(wanted_texts[first_index:end]):
            self.fail(f"{ask.request_id}: tokens {first_index} to {end} are not the answer's")
        self.tokens_seen += len(ids)
        return end

    def reference(self, ask: Ask) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Return the whole answer to an ask."""
        known = self.references.get(ask.request_id)
        if known is None:
            known = self.references[ask.request_id] = reference(ask)
        return known

    # --- After every turn ---

    def look(self, process: Process) -> None:
        """Look at what the process that just ran has in its memory."""
        queen = process.parts.get("queen")
        if queen is not None:
            self._look_at_queen(process, queen)
        worker = process.parts.get("worker")
        if worker is not None:
            self._look_at_worker(process, worker)
        machine = self.machines.get(process.host)
        if machine is not None and machine.used_bytes > machine.device_bytes:
            self.fail(f"{machine.name} has more workers than its device holds")

    def _look_at_worker(self, process: Process, worker: Any) -> None:
        slots = worker.status.slots
        if not (0 <= slots.free <= slots.total and slots.kv_tokens_free >= 0):
            self.fail(f"{process.name} overcommitted its slots or KV memory")
        for held in worker._leases.held():
            if held.next_index - held.first_kept_index > _KEPT_TOKENS_MAX:
                self.fail(f"{process.name} keeps more of {held.lease_id} than it may")

    def _look_at_queen(self, process: Process, queen: Any) -> None:
        count = queen.loop.events_count
        if self._looked_at.get(process) == count:
            return
        self._looked_at[process] = count
        self._stale_writes[process] = queen._relay.stale_epoch_writes_count
        for link in queen._links.by_worker.values():
            if len(link._offers) > limits.SLOTS_MAX:
                self.fail(f"{process.name} gathers offers for {link.worker_id} without end")
        try:
            check_invariants(queen.loop.state)
            check_quotas(queen.loop.state)
            check_yard(queen.loop.state)
            used = queen.loop.state.work.units_used
            assert max(used.values(), default=0) <= limits.CAPACITY_UNITS_DEFAULT, used
        except (AssertionError, KeyError) as fault:
            self.fail(f"{process.name}: {fault!r}")
