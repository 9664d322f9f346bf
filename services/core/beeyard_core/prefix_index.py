"""What of prompts is in the caches of workers: an approximate radix index, kept from what was sent where.

An engine that caches prefixes need not compute again what a prompt has in common with an earlier one; a conversation
that goes on, or the long instructions that many jobs begin with, start sooner on the worker that has them. Nobody asks
the engines: what was sent to a worker is taken to be in its cache, until newer prompts have pushed it out, or the
worker reports that it was not there.

Theory of operation
    A prompt is a *path*: the hashes of its blocks, each over the block and everything before it, so that one number
    names a whole prefix and a table of them is a radix tree. The shell makes them, with a key of its own: no text gets
    in here. A worker's cache is a list of blocks, the longest unused first. Whoever uses a block uses all before it,
    later, so a block is never there without the blocks before it, and the deepest one present says how much is.

    Rule 1: a job waits for *one* block, the deepest of its path that anybody had when it joined the queue. Policies are
    told who has that block: the mirror's `prompt_hash` and prefix rows.
    Rule 2: what more than `PREFIX_HOLDERS_TOLD_MAX` workers have, policies are not told: everybody has it, so it
    distinguishes nobody, and a decision looks at every holder.
    Rule 3: how much a cache holds is learnt. A prompt of which less was found than was believed halves it, one that was
    found lets it grow by its own length. An engine that finds nothing is soon believed to hold nothing.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from beeyard_core import limits
from beeyard_core.fleet import PREFIX_CACHE, Worker
from beeyard_core.ids import JobId, WorkerId

#: Hashes of the blocks of a prompt, from its beginning; each names everything up to its own end.
Path = tuple[int, ...]


@dataclass(slots=True)
class _Cache:
    """What one worker is believed to hold. `blocks`: depth by block, the longest unused first; `room`: how many fit."""

    room: int
    blocks: OrderedDict[int, int] = field(default_factory=OrderedDict)


@dataclass(frozen=True, slots=True)
class _Belief:
    """The share of a job's prompt, 0 to 1, that its worker was believed to have when it was sent there."""

    worker_id: WorkerId
    share: float


@dataclass(slots=True)
class PrefixIndex:
    """Paths of jobs that have not ended, and the caches of workers.

    Attributes:
        touched: Blocks of which a policy's mirror must be told anew who has them; `policy/projection.py` takes it out.
    """

    touched: dict[int, None] = field(default_factory=dict)
    _paths: dict[JobId, Path] = field(default_factory=dict)
    _path_blocks: int = 0
    _beliefs: dict[JobId, _Belief] = field(default_factory=dict)
    _awaited: dict[JobId, int] = field(default_factory=dict)
    _waiting: dict[int, int] = field(default_factory=dict)
    _holders: dict[int, dict[WorkerId, None]] = field(default_factory=dict)
    _caches: OrderedDict[WorkerId, _Cache] = field(default_factory=OrderedDict)
    _count: int = 0

    # --- Jobs ---

    def join(self, job_id: JobId, path: Path) -> None:
        """Know a job's prompt, until it leaves. With more prompts than can be kept, it has none."""
        path = path[: limits.PREFIX_BLOCKS_PER_PROMPT_MAX]
        if path and self._path_blocks + len(path) <= limits.PREFIX_PATH_BLOCKS_MAX:
            self._paths[job_id] = path
            self._path_blocks += len(path)

    def leave(self, job_id: JobId) -> None:
        """Forget a job that has ended."""
        self._path_blocks -= len(self._paths.pop(job_id, ()))
        self._beliefs.pop(job_id, None)

    def await_block(self, job_id: JobId) -> None:
        """Let a job that joins the queue wait for the deepest block of its prompt that anybody has."""
        path = self._paths.get(job_id)
        if path is None:
            return
        block = next((b for b in reversed(path) if b in self._holders), None)
        if block is not None:
            self._awaited[job_id] = block
            waiting = self._waiting[block] = self._waiting.get(block, 0) + 1
            if waiting == 1:
                self.touched[block] = None

    def leave_queue(self, job_id: JobId) -> None:
        """It waits no longer."""
        block = self._awaited.pop(job_id, None)
        if block is not None:
            self._waiting[block] -= 1
            if not self._waiting[block]:
                del self._waiting[block]
                self.touched[block] = None

    # --- Workers ---

    def send(self, job_id: JobId, worker: Worker) -> None:
        """A job is offered to a worker, which will have its prompt in the cache from then on."""
        path = self._paths.get(job_id)
        if path is None or PREFIX_CACHE not in worker.report.extensions:
            return
        worker_id = worker.report.worker_id
        cache = self._caches.pop(worker_id, None) or _Cache(_room_of(worker))
        self._caches[worker_id] = cache
        depth = self._depth(path, cache)
        self._beliefs[job_id] = _Belief(worker_id, depth / len(path))
        for at in range(len(path), 0, -1):
            block = path[at - 1]
            if cache.blocks.pop(block, 0) == 0:
                self._count += 1
                self._add_holder(block, worker_id)
            cache.blocks[block] = at
        self._shrink(worker_id, cache, cache.room)
        while self._count > limits.PREFIX_BLOCKS_MAX:
            self._make_room()

    def finish(self, job_id: JobId, *, prompt_tokens: int, cached_tokens: int) -> None:
        """A worker reports how much of a finished job's prompt it found in its cache."""
        belief, path = self._beliefs.pop(job_id, None), self._paths.get(job_id)
        cache = self._caches.get(belief.worker_id) if belief is not None else None
        if belief is None or path is None or cache is None or prompt_tokens <= 0:
            return
        found = cached_tokens / prompt_tokens
        if found < belief.share / 2:
            cache.room = len(cache.blocks) // 2
            self._shrink(belief.worker_id, cache, cache.room)
        elif found > 0:
            cache.room = min(cache.room + len(path), limits.PREFIX_BLOCKS_PER_WORKER_MAX)

    def forget(self, worker_id: WorkerId) -> None:
        """A worker is gone, or another process came under its name: its cache is empty."""
        cache = self._caches.pop(worker_id, None)
        if cache is not None:
            self._shrink(worker_id, cache, 0)

    # --- Answers ---

    def awaited(self, job_id: JobId) -> str:
        """The name of the block that a job waits for, as policies know it; empty: none."""
        block = self._awaited.get(job_id)
        return "" if block is None else name_of(block)

    def holders(self, block: int) -> Mapping[WorkerId, int]:
        """Who has a block that a job waits for, and how many tokens of prompt it stands for, as policies are told."""
        holders = self._holders.get(block, {})
        if block not in self._waiting or len(holders) > limits.PREFIX_HOLDERS_TOLD_MAX:
            return {}
        return {w: self._caches[w].blocks[block] * limits.PREFIX_BLOCK_TOKENS for w in holders}

    def blocks_awaited(self) -> Iterator[int]:
        """Every block that some job waits for."""
        return iter(self._waiting)

    def held(self, job_id: JobId) -> dict[WorkerId, int]:
        """Tokens of a job's prompt in every worker's cache, what policies are not told included. Walks the caches."""
        path = self._paths.get(job_id, ())
        depths = {worker_id: self._depth(path, cache) for worker_id, cache in self._caches.items()}
        return {w: depth * limits.PREFIX_BLOCK_TOKENS for w, depth in depths.items() if depth}

    # --- Its own ---

    def _depth(self, path: Path, cache: _Cache) -> int:
        return next((at for at in range(len(path), 0, -1) if path[at - 1] in cache.blocks), 0)

    def _add_holder(self, block: int, worker_id: WorkerId) -> None:
        self._holders.setdefault(block, {})[worker_id] = None
        if block in self._waiting:
            self.touched[block] = None

    def _make_room(self) -> None:
        """Push out one block of the longest unused worker; one that has none is forgotten instead."""
        worker_id, cache = next(iter(self._caches.items()))
        if cache.blocks:
            self._shrink(worker_id, cache, len(cache.blocks) - 1)
        else:
            del self._caches[worker_id]

    def _shrink(self, worker_id: WorkerId, cache: _Cache, room: int) -> None:
        """Push the longest unused blocks out of a cache until so many are left."""
        while len(cache.blocks) > room:
            block, _ = cache.blocks.popitem(last=False)
            self._count -= 1
            holders = self._holders[block]
            del holders[worker_id]
            if not holders:
                del self._holders[block]
            if block in self._waiting:
                self.touched[block] = None


def name_of(block: int) -> str:
    """Return how policies know a block."""
    return f"{block:016x}"


def _room_of(worker: Worker) -> int:
    """How many blocks a cache holds as far as its worker's KV memory says, until it is learnt."""
    blocks = worker.report.kv_tokens_total // limits.PREFIX_BLOCK_TOKENS
    return min(blocks, limits.PREFIX_BLOCKS_PER_WORKER_MAX)
