"""Recorded decisions are made again in other processes, and their bytes are equal."""

import asyncio
import hashlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from beeyard_queen.policy.deltas import Delta
from beeyard_queen.policy.hosts import Outcome, PolicyHost
from beeyard_queen.policy.in_process import PLATFORM_LABEL, PlatformPolicy
from beeyard_queen.policy.journal import DecisionJournal
from beeyard_queen.policy.journal_file import (
    DecisionEntry,
    JournalReader,
    intent_bytes,
    journal_files,
    pack_entry,
    platform_digest,
)
from beeyard_queen.policy.zygote import Zygote

from tests.support.busy_world import BusyWorld
from tests.support.policy_sandbox import running_policy, running_zygote

pytestmark = pytest.mark.asyncio(loop_scope="module")

DECISIONS = 10_000
#: Everything that differs between processes in a plain Lua: chance, the order of `pairs`, ties in a sort, addresses,
#: and what is remembered.
MOODY = """
function schedule(context)
  local state, jobs, weight, told = context.state, {}, {}, {}
  state.calls = (state.calls or 0) + 1
  for at, job in ipairs(context.queue) do
    if at > 10 then break end
    jobs[at] = job
  end
  if #jobs == 0 then return { action = "wait", reason = "call " .. state.calls } end
  table.sort(jobs, function(a, b) return a.priority < b.priority end)
  for at, job in ipairs(jobs) do weight[job.tenant_id] = (weight[job.tenant_id] or 0) + at / 3 end
  for tenant, sum in pairs(weight) do told[#told + 1] = tenant .. "=" .. tostring(sum) end
  local job = jobs[context.random(1, #jobs)]
  state.last = state.last or {}
  local before = state.last[job.tenant_id]
  state.last[job.tenant_id] = job.id
  context.log_info(tostring({}) .. " " .. context.random())
  local worker = context.find_best_worker(job) or context.find_worker_round_robin(job.model_ref)
  if not worker then return { action = "wait", reason = table.concat(told, " "), retry_after_ms = state.calls } end
  return { action = "dispatch", job_id = job.id, worker_id = worker.id, reason = tostring(before) }
end
"""
DIGEST = hashlib.sha256(MOODY.encode()).hexdigest()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def zygote() -> AsyncIterator[Zygote]:
    async with running_zygote() as running:
        yield running


class Recording:
    """A busy fleet in which two policies decide, with a journal of both."""

    def __init__(self, folder: Path, **options: int) -> None:
        self.fleet = BusyWorld()
        self.platform = PlatformPolicy()
        self.platform.apply(self.fleet.snapshot())
        self.journal = DecisionJournal(folder, self.fleet.snapshot, **options)
        self.decided = 0

    def tell(self, deltas: list[Delta], *others: PolicyHost) -> None:
        self.platform.apply(deltas)
        self.journal.note(deltas)
        for other in others:
            other.note(deltas)

    def decide(self, *others: PolicyHost) -> None:
        """Let something happen, and the platform policy decide about it."""
        self.tell(self.fleet.happen(), *others)
        now_ms, seed = self.fleet.now_ms, self.decided * 7
        intent = self.platform.decide(now_ms, seed)
        self.journal.record(
            now_ms=now_ms, seed=seed, label=PLATFORM_LABEL, digest=platform_digest(),
            decided=intent_bytes(intent), state_version=self.decided,
        )  # fmt: skip
        self.decided += 1
        self.tell(self.fleet.follow(intent), *others)

    async def ask(self, policy: PolicyHost) -> None:
        """Ask the other policy, while the world goes on."""
        now_ms, seed, position = self.fleet.now_ms, self.decided * 5, self.journal.position
        question = asyncio.ensure_future(policy.decide(seed=seed, now_ms=now_ms))
        await asyncio.sleep(0)
        if self.decided % 3 == 0:
            self.tell(self.fleet.happen(), policy)
        ruling = await question
        assert ruling.outcome is Outcome.DECIDED, ruling
        self.journal.record(
            now_ms=now_ms, seed=seed, label="moody@3", digest=DIGEST, decided=ruling.reply.decided,
            state=ruling.reply.state, position=position, state_version=self.decided,
        )  # fmt: skip


async def replayed(journal: Path) -> tuple[int | None, list[dict[str, object]]]:
    """Replay a journal in a process of its own; return its exit code and what it says."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "beeyard_queen.policy", "replay", str(journal), "--json",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    return process.returncode, json.loads(out)


async def test_ten_thousand_decisions_of_each_kind_of_policy_are_repeated_byte_for_byte(
    zygote: Zygote, tmp_path: Path
) -> None:
    recording = Recording(tmp_path)
    recording.journal.learn(DIGEST, "moody@3", MOODY.encode())
    async with running_policy(zygote, MOODY, snapshot=recording.fleet.snapshot) as policy:
        for number in range(DECISIONS):
            recording.decide(policy)
            await recording.ask(policy)
            if number == DECISIONS // 2:
                # What a policy remembers goes on in another process.
                assert policy.current is not None
                policy.current.kill("a test")
                await policy.decide(seed=1, now_ms=0)
                await policy.settle()
    recording.journal.close()
    code, (report,) = await replayed(tmp_path)
    assert report["by_label"] == {PLATFORM_LABEL: DECISIONS, "moody@3": DECISIONS}
    assert (report["first_difference"], report["differences"], report["skipped"]) == (None, 0, {})
    assert code == 0


async def test_a_decision_that_was_not_made_is_found(tmp_path: Path) -> None:
    recording = Recording(tmp_path)
    for _ in range(50):
        recording.decide()
    recording.journal.close()
    (path,) = journal_files(tmp_path)
    entries = [entry for _, entry in JournalReader(path).entries()]
    lied = 0
    for at, entry in enumerate(entries):
        if isinstance(entry, DecisionEntry):
            lied += 1
            if lied in (30, 40):
                entries[at] = entry._replace(seed=5, decided=b"\x92\xa4wait\xa2hm")
    path.write_bytes(b"".join(map(pack_entry, entries)))
    code, (report,) = await replayed(path)
    assert code == 1
    assert (report["decisions"], report["differences"]) == (50, 2)
    assert "decision 30 of platform@0, state version 29" in str(report["first_difference"])
    assert "recorded: ['wait', 'hm']" in str(report["first_difference"])


async def test_every_file_of_a_journal_can_be_replayed_by_itself(
    zygote: Zygote, tmp_path: Path
) -> None:
    recording = Recording(tmp_path, file_bytes_max=30_000, files_max=3)
    recording.journal.learn(DIGEST, "moody@3", MOODY.encode())
    async with running_policy(zygote, MOODY, snapshot=recording.fleet.snapshot) as policy:
        for _ in range(600):
            recording.decide(policy)
            await recording.ask(policy)
            recording.journal.flush()
    recording.journal.close()
    files = journal_files(tmp_path)
    assert len(files) == 3
    assert files[0].name > "decisions-0000000001.journal"
    assert all(path.stat().st_size < 60_000 for path in files)
    code, reports = await replayed(tmp_path)
    assert code == 0
    assert all(report["decisions"] > 20 for report in reports)  # type: ignore[operator]  # numbers


async def test_a_torn_end_is_told_and_no_difference(tmp_path: Path) -> None:
    recording = Recording(tmp_path)
    for _ in range(20):
        recording.decide()
    recording.journal.close()
    (path,) = journal_files(tmp_path)
    path.write_bytes(path.read_bytes()[:-3])
    code, (report,) = await replayed(path)
    assert code == 0
    assert report["decisions"] in (19, 20)
    assert "no whole entry" in str(report["remarks"])


async def test_what_is_no_journal_is_said_so(tmp_path: Path) -> None:
    for name, body in {
        "empty": b"",
        "text": b"hello, world",
        "other": b"\x02\x00\x00\x00\x91\x01",
    }.items():
        path = tmp_path / name
        path.write_bytes(body)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "beeyard_queen.policy", "replay", str(path),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, told = await process.communicate()
        assert (process.returncode, out) == (2, b""), name
        assert b"Traceback" not in told
        assert told.startswith(b"beeyard policy: ")
