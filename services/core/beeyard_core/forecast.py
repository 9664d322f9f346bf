"""When a waiting job will start and end, from measured times only.

What nothing was measured for is unknown, never a guess. The middle of a prediction comes from a plain picture of the
queue: the work before the job and the rest of what runs, over the slots, slowed by more urgent work that will come in
meanwhile. How wrong such figures have been is measured as well, and makes the interval (`residuals.py`).

`start_ms` and `retry_after_ms` are the short answer for refusals: Little's law with the mean service time of the
model's last jobs, 0 where nothing is known.
"""

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from beeyard_core import history_limits, limits
from beeyard_core.backlog import Backlog, ModelBacklog
from beeyard_core.fleet import Fleet
from beeyard_core.history import NEVER, JobRecord
from beeyard_core.ids import ModelName
from beeyard_core.job import Job, JobSpec, JobState, Priority
from beeyard_core.prediction import Estimate, Figure, Moments, Prediction
from beeyard_core.profile import HOUR_MS, WeekProfile
from beeyard_core.residuals import Residuals
from beeyard_core.service_times import Distribution, Expectation, ModelTimes, measured_of

#: Weight of the newest measurement. One in eight forgets a change of load within some dozens of jobs.
_WEIGHT: Final = 0.125
#: No share of the slots that more urgent work takes counts for more: what is left would be next to nothing.
_URGENT_SHARE_MAX: Final = 0.9
#: The spread of a wait as a share of it, beside that of the jobs before.
_STRETCH_SPREAD: Final = 0.5
#: The least spread of a figure: clocks count in milliseconds.
_SPREAD_MS_MIN: Final = 1.0


#: The start of a job for which a slot is free.
_AT_ONCE: Final = Figure(0.0, _SPREAD_MS_MIN)


class _Kind(NamedTuple):
    """Predictions that are wrong in the same way."""

    model: ModelName
    priority: Priority
    is_immediate: bool


class DeviceFigures(NamedTuple):
    """How long jobs of a model held a slot on a kind of device, in milliseconds, and how many of them were measured."""

    mean_ms: float
    p50_ms: float
    p95_ms: float
    n: int


@dataclass(slots=True)
class Forecast:
    """Measured times by model, and what follows from them.

    Attributes:
        service_ms: Mean time on a slot in milliseconds, by model, for Little's law.
        times: What jobs of each model needed.
        backlog: What waits and runs.
        devices: Time on a slot by model and kind of device.
        told: What policies are told of that.
        touched: The keys of those that they have not been told yet; `policy/projection.py` takes them out.
        profiles: Urgent work by the hour of the week.
        is_learning: Whether outcomes still change anything; a calibration on a held-out half switches it off.
        now_ms: Monotonic time of the last change of the backlog.
        wall_ms: The wall time at which the last job was accepted.
    """

    service_ms: dict[ModelName, float] = field(default_factory=dict)
    times: dict[ModelName, ModelTimes] = field(default_factory=dict)
    backlog: Backlog = field(default_factory=Backlog)
    devices: dict[tuple[ModelName, str], Distribution] = field(default_factory=dict)
    told: dict[tuple[ModelName, str], "DeviceFigures"] = field(default_factory=dict)
    touched: dict[tuple[ModelName, str], None] = field(default_factory=dict)
    profiles: dict[ModelName, WeekProfile] = field(default_factory=dict)
    is_learning: bool = True
    now_ms: int = 0
    wall_ms: int = 0
    _starts: dict[_Kind, Residuals] = field(default_factory=dict)
    _ends: dict[_Kind, Residuals] = field(default_factory=dict)

    # --- Little's law ---

    def observe(self, model: ModelName, service_ms: float) -> None:
        """Take in how long one job of a model held its slot."""
        mean = self.service_ms.get(model)
        fresh = service_ms if mean is None else mean + _WEIGHT * (service_ms - mean)
        self.service_ms[model] = fresh

    def start_ms(self, model: ModelName, ahead: int, fleet: Fleet) -> int:
        """Predict when a job with `ahead` jobs before it starts, in milliseconds from now; 0: at once, or unknown."""
        if model in fleet.open_workers and ahead == 0:
            return 0
        slots = fleet.slots_total.get(model, 0)
        mean = self.service_ms.get(model, 0.0)
        return int((ahead + 1) * mean / slots) if slots else 0

    def retry_after_ms(self, model: ModelName, queued: int, fleet: Fleet) -> int:
        """Predict when a queue that is full now has room again, in milliseconds, at least one retry delay."""
        return max(self.start_ms(model, max(queued // 10, 1), fleet), limits.RETRY_DELAY_MS)

    # --- What waits and runs ---

    def waits(self, job: Job, now_ms: int) -> None:
        """Count a job that joined the queue, as `expected_ms` of work."""
        self.now_ms = now_ms
        model, priority = job.spec.model, job.spec.priority
        self.backlog.waits(model, priority, job.expected_ms)
        # What comes back was counted when it came.
        if job.attempt:
            return
        self._turn_hour(job.accepted_at.wall_ms)
        if job.expected_ms:
            self.backlog.arrives(model, priority, job.expected_ms, now_ms)
            if priority <= Priority.NORMAL:
                self._profile(model).add(job.expected_ms, job.accepted_at.wall_ms)

    def _turn_hour(self, wall_ms: int) -> None:
        """Let policies know what is usual in an hour with the first job that is accepted in it."""
        if wall_ms // HOUR_MS != self.wall_ms // HOUR_MS:
            self.touched.update(dict.fromkeys(self.told))
        self.wall_ms = wall_ms

    def usual_slots(self, model: ModelName) -> tuple[float | None, float | None]:
        """Return how many slots urgent work usually keeps busy in this hour of the week and the next; None: unknown."""
        profile = self.profiles.get(model)
        if profile is None:
            return None, None
        return profile.slots_at(self.wall_ms), profile.slots_at(self.wall_ms + HOUR_MS)

    def leaves(self, job: Job) -> None:
        """Count a job out of the queue."""
        self.backlog.leaves(job.spec.model, job.spec.priority, job.expected_ms)

    def holds(self, model: ModelName) -> None:
        """Count a lease that occupies a slot."""
        self.backlog.of(model).running += 1

    def frees(self, model: ModelName) -> None:
        """Count a slot that was given back."""
        self.backlog.of(model).running -= 1

    # --- Start and end of one job ---

    def predict(
        self, model: ModelName, ahead: int, spec: JobSpec, fleet: Fleet
    ) -> Prediction | None:
        """Predict start and end of a job.

        Args:
            model: The model that it is to run on, which `spec` need not name yet.
            ahead: Jobs before it in the queue, of all models, it not among them.
            spec: The job.
            fleet: What there is to run it.

        Returns:
            Milliseconds from now, or None: nothing serves the model, or too little was measured of it.
        """
        times = self.times.get(model)
        expected = times.expect(spec) if times is not None else None
        if times is None or expected is None:
            return None
        found = self._estimate(model, times, expected, ahead, spec.priority, fleet)
        return found.prediction if found is not None else None

    def foresee(self, job: Job, ahead: int, fleet: Fleet) -> Estimate | None:
        """Write down with a job what is expected of it, to be held against what becomes of it."""
        times = self.times.get(job.spec.model)
        expected = times.expect(job.spec) if times is not None else None
        if times is None or expected is None:
            return None
        job.expected_tokens = expected.tokens
        job.expected_ms = max(round(expected.service_ms), 1)
        job.estimate = self._estimate(
            job.spec.model, times, expected, ahead, job.spec.priority, fleet
        )
        return job.estimate

    def _estimate(
        self,
        model: ModelName,
        times: ModelTimes,
        expected: Expectation,
        ahead: int,
        priority: Priority,
        fleet: Fleet,
    ) -> Estimate | None:
        slots = fleet.slots_total.get(model, 0)
        if not slots:
            return None
        backlog = self.backlog.of(model)
        before = self._before(backlog, ahead, priority)
        free = slots - backlog.running if model in fleet.open_workers else 0
        is_immediate = before < free
        start = (
            _AT_ONCE
            if is_immediate
            else self._start(model, times, backlog, before, priority, slots)
        )
        spread = max((start.spread_ms**2 + expected.spread_ms**2) ** 0.5, _SPREAD_MS_MIN)
        end = Figure(start.middle_ms + expected.service_ms, spread)
        kind = _Kind(model, priority, is_immediate)
        prediction = Prediction(
            _moments(start, _levels(self._starts, kind)), _moments(end, _levels(self._ends, kind))
        )
        return Estimate(start, end, is_immediate, prediction)

    def _before(self, backlog: ModelBacklog, ahead: int, priority: Priority) -> float:
        """How many of the jobs before one are for its model: its share of the classes that are served before."""
        every = sum(self.backlog.depths[:priority])
        return sum(backlog.waiting[:priority]) * min(ahead / every, 1.0) if every else 0.0

    def _as_usual(
        self, model: ModelName, urgent: float, wait_ms: float, priority: Priority
    ) -> float:
        """Weigh the urgent work that comes in now with what is usual when the wait will be over.

        What comes in now says most of the next minute; of what is an hour away, the week says more.
        """
        profile = self.profiles.get(model)
        if profile is None or priority <= Priority.NORMAL:
            return urgent
        usual = profile.slots_at(self.wall_ms + round(wait_ms))
        if usual is None:
            return urgent
        weight = wait_ms / (wait_ms + history_limits.FORECAST_WINDOW_MS)
        return (1.0 - weight) * urgent + weight * usual

    def _start(
        self,
        model: ModelName,
        times: ModelTimes,
        backlog: ModelBacklog,
        before: float,
        priority: Priority,
        slots: int,
    ) -> Figure:
        """Return when a job starts that has to wait for so many others of its model, and for a slot."""
        usual = times.service.average
        waiting = sum(backlog.waiting[:priority])
        work_ms = sum(backlog.work_ms[:priority]) + sum(backlog.unknown[:priority]) * usual.mean
        ahead_ms = work_ms * before / waiting if waiting else 0.0
        urgent = sum(each.rate(self.now_ms) for each in backlog.arrivals[: priority - 1])
        base_ms = (ahead_ms + usual.mean) / slots
        urgent = self._as_usual(model, urgent, base_ms, priority)
        left = 1.0 - min(urgent / slots, _URGENT_SHARE_MAX)
        middle_ms = base_ms / left
        # Whoever is before it adds its own spread; the next slot to be free adds what is left of a job.
        variance = ((before + 1.0) * usual.variance + usual.mean**2) / slots**2
        # ... and nobody knows well how much urgent work will come, which stretches all of it.
        variance = variance / left**2 + (_STRETCH_SPREAD * middle_ms) ** 2
        return Figure(middle_ms, max(variance**0.5, _SPREAD_MS_MIN))

    # --- What became of it ---

    def started(self, job: Job, waited_ms: int) -> None:
        """Hold a job's first lease against what was predicted."""
        estimate = job.estimate
        if estimate is not None and self.is_learning:
            kind = _Kind(job.spec.model, job.spec.priority, estimate.is_immediate)
            self._residuals(self._starts, kind).add(estimate.start.score(waited_ms))

    def learn(self, record: JobRecord) -> None:
        """Take in what became of a job: just now, or remembered from an earlier queen. Only an answer teaches."""
        if record.state is not JobState.COMPLETED or not self.is_learning:
            return
        self.observe(record.model, record.service_ms)
        estimate = record.estimate
        # A later attempt made a part of the answer only.
        if record.attempts == 1:
            expected_ms = 0 if estimate is None else estimate.service_ms
            self._times(record.model).add(measured_of(record), expected_ms)
        self._learn_device(record)
        if estimate is not None:
            kind = _Kind(record.model, record.priority, estimate.is_immediate)
            self._residuals(self._ends, kind).add(estimate.end.score(record.total_ms))

    def recall(self, record: JobRecord) -> None:
        """Learn from a job that an earlier queen ran."""
        if record.estimate is not None and record.wait_ms != NEVER:
            kind = _Kind(record.model, record.priority, record.estimate.is_immediate)
            self._residuals(self._starts, kind).add(record.estimate.start.score(record.wait_ms))
        if record.priority <= Priority.NORMAL and record.service_ms != NEVER:
            self._profile(record.model).add(record.service_ms, record.created_ms)
        self.learn(record)

    def _profile(self, model: ModelName) -> WeekProfile:
        if model not in self.profiles and len(self.profiles) >= history_limits.FORECAST_MODELS_MAX:
            del self.profiles[next(iter(self.profiles))]
        return self.profiles.setdefault(model, WeekProfile())

    def _learn_device(self, record: JobRecord) -> None:
        """Measure jobs by the kind of device, and say now and then that policies should hear of it."""
        key = (record.model, record.device)
        if key not in self.devices and len(self.devices) >= history_limits.FORECAST_DEVICES_MAX:
            return
        measured = self.devices.setdefault(key, Distribution())
        measured.add(record.service_ms)
        n = measured.average.n
        # At first each job changes much, later few do.
        if n < history_limits.FORECAST_TOLD_EVERY or n % history_limits.FORECAST_TOLD_EVERY == 0:
            sketch = measured.sketch
            self.told[key] = DeviceFigures(
                mean_ms=round(measured.average.mean, 1),
                p50_ms=round(sketch.quantile(0.5), 1),
                p95_ms=round(sketch.quantile(0.95), 1),
                n=n,
            )
            self.touched[key] = None

    def _times(self, model: ModelName) -> ModelTimes:
        if model not in self.times and len(self.times) >= history_limits.FORECAST_MODELS_MAX:
            del self.times[next(iter(self.times))]
        return self.times.setdefault(model, ModelTimes())

    @staticmethod
    def _residuals(by_kind: dict[_Kind, Residuals], kind: _Kind) -> Residuals:
        if kind not in by_kind and len(by_kind) >= history_limits.FORECAST_KINDS_MAX:
            del by_kind[next(iter(by_kind))]
        return by_kind.setdefault(kind, Residuals())


_NOTHING_SCORED: Final = Residuals()


def _levels(by_kind: dict[_Kind, Residuals], kind: _Kind) -> tuple[float, ...]:
    return by_kind.get(kind, _NOTHING_SCORED).levels()


def _moments(figure: Figure, scores: tuple[float, ...]) -> Moments:
    a, b, c, d, e = (figure.at(score) for score in scores)
    return a, b, c, d, e
