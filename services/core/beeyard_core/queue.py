"""The queue of jobs that wait for a worker: strict classes, FIFO within a class, O(log n) an operation.

Within a class the jobs are kept in one heap for each *shape* (everything that decides which workers could take a job,
its size included), ordered by acceptance. Jobs of one shape are interchangeable to a worker, so if the oldest of them
cannot be placed, none of that shape can, and the next shape is looked at without a walk. Removal is lazy: a removed
job's heap entry is skipped when it comes up, and swept out once more than half of the heap is such entries.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

from beeyard_core.ids import JobId, ModelName
from beeyard_core.job import Job, Priority, Shape

#: Jobs are counted in runs of this many sequence numbers, which makes a position cheap without a balanced tree.
_RUN = 256
#: A heap is not swept below this many entries.
_SWEEP_MIN = 32


@dataclass(slots=True)
class _Line:
    """The jobs of one shape: a heap that may hold removed jobs, never at its head, and how many are not removed."""

    shape: Shape
    heap: list[tuple[int, JobId]] = field(default_factory=list)
    count: int = 0


@dataclass(slots=True)
class _Class:
    """One priority class. `untried`: the jobs that never began, oldest first, and some that began or left since."""

    shapes: dict[ModelName, dict[Shape, _Line]] = field(default_factory=dict)
    untried: list[tuple[int, JobId]] = field(default_factory=list)
    runs: dict[int, set[int]] = field(default_factory=dict)
    depth: int = 0


@dataclass(slots=True)
class JobQueue:
    """Every queued job, by class, model and shape."""

    _classes: dict[Priority, _Class] = field(
        default_factory=lambda: {priority: _Class() for priority in Priority}
    )
    _queued: dict[JobId, Job] = field(default_factory=dict)
    #: The line of each queued job: a shape is made of many parts, and looking one up costs more than all the rest.
    _lines: dict[JobId, _Line] = field(default_factory=dict)
    _by_model: dict[ModelName, int] = field(default_factory=dict)

    def __len__(self) -> int:
        """How many jobs wait."""
        return len(self._queued)

    def __contains__(self, job_id: JobId) -> bool:
        """Whether a job waits."""
        return job_id in self._queued

    def job_ids(self) -> Iterator[JobId]:
        """Every job that waits, in no order."""
        return iter(self._queued)

    def push(self, job: Job) -> None:
        """Add a job at the place of its sequence: a new one comes last, a re-queued one before all younger ones."""
        spec, entry = job.spec, (job.sequence, job.job_id)
        group = self._classes[spec.priority]
        shapes = group.shapes.get(spec.model)
        if shapes is None:
            shapes = group.shapes[spec.model] = {}
        shape = spec.shape
        line = shapes.get(shape)
        if line is None:
            line = shapes[shape] = _Line(shape)
        self._lines[job.job_id] = line
        heapq.heappush(line.heap, entry)
        line.count += 1
        run = group.runs.get(job.sequence // _RUN)
        if run is None:
            run = group.runs[job.sequence // _RUN] = set()
        run.add(job.sequence)
        group.depth += 1
        self._queued[job.job_id] = job
        if not job.attempt:
            self._note_untried(group, entry)
        self._by_model[spec.model] = self._by_model.get(spec.model, 0) + 1

    def _note_untried(self, group: _Class, entry: tuple[int, JobId]) -> None:
        """Remember a job that never began; swept once most of what is remembered is out of date."""
        if len(group.untried) > max(2 * group.depth, _SWEEP_MIN):
            group.untried = [entry for entry in group.untried if self._is_untried(entry[1])]
            heapq.heapify(group.untried)
        heapq.heappush(group.untried, entry)

    def _is_untried(self, job_id: JobId) -> bool:
        job = self._queued.get(job_id)
        return job is not None and not job.attempt

    def oldest_untried(self, priority: Priority) -> Job | None:
        """Return the oldest job of a class of which no attempt was begun, or None."""
        untried = self._classes[priority].untried
        while untried and not self._is_untried(untried[0][1]):
            heapq.heappop(untried)
        return self._queued[untried[0][1]] if untried else None

    def remove(self, job: Job) -> None:
        """Take a queued job out."""
        del self._queued[job.job_id]
        group = self._classes[job.spec.priority]
        group.depth -= 1
        run = group.runs[job.sequence // _RUN]
        run.discard(job.sequence)
        if not run:
            del group.runs[job.sequence // _RUN]
        self._by_model[job.spec.model] -= 1
        if not self._by_model[job.spec.model]:
            del self._by_model[job.spec.model]
        self._trim(group, job)

    def _trim(self, group: _Class, job: Job) -> None:
        """Count a removed job out of its line and drop what is gone from the line's head."""
        line = self._lines.pop(job.job_id)
        line.count -= 1
        if not line.count:
            shapes = group.shapes[job.spec.model]
            del shapes[line.shape]
            if not shapes:
                del group.shapes[job.spec.model]
            return
        if len(line.heap) > max(2 * line.count, _SWEEP_MIN):
            line.heap = [entry for entry in line.heap if entry[1] in self._queued]
            heapq.heapify(line.heap)
        while line.heap[0][1] not in self._queued:
            heapq.heappop(line.heap)

    def heads(self, priority: Priority, model: ModelName) -> list[Job]:
        """Return the oldest job of each shape of a class and model, oldest first."""
        shapes = self._classes[priority].shapes.get(model)
        if not shapes:
            return []
        return [
            self._queued[job_id] for _, job_id in sorted(line.heap[0] for line in shapes.values())
        ]

    def models(self, priority: Priority) -> Iterator[ModelName]:
        """The models that jobs of a class wait for."""
        return iter(self._classes[priority].shapes)

    def waiting_for(self, model: ModelName) -> int:
        """How many jobs wait for a model."""
        return self._by_model.get(model, 0)

    def depth(self, priority: Priority) -> int:
        """How many jobs of a class wait."""
        return self._classes[priority].depth

    def depths(self) -> tuple[int, ...]:
        """How many jobs of each class wait, the most urgent class first."""
        return tuple(group.depth for group in self._classes.values())

    def waiting_models(self) -> list[ModelName]:
        """The models that any job waits for, in the order of their names."""
        return sorted(self._by_model)

    def jobs_for(self, model: ModelName) -> list[Job]:
        """Every job that waits for a model, oldest first. Walks the queue: for rare decisions only."""
        found = [job for job in self._queued.values() if job.spec.model == model]
        return sorted(found, key=lambda job: job.sequence)

    def ahead_of_new(self, priority: Priority) -> int:
        """How many jobs are served before one that is accepted now."""
        return sum(group.depth for p, group in self._classes.items() if p <= priority)

    def position(self, job: Job) -> int:
        """How many jobs are served before this one: those of higher classes and the older ones of its own."""
        ahead = sum(g.depth for p, g in self._classes.items() if p < job.spec.priority)
        own = job.sequence // _RUN
        for run, sequences in self._classes[job.spec.priority].runs.items():
            if run < own:
                ahead += len(sequences)
            elif run == own:
                ahead += sum(1 for sequence in sequences if sequence < job.sequence)
        return ahead
