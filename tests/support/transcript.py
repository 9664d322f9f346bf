"""Runs stories: text files of commands and, below each `----`, what the queen did about them.

A story is a list of paragraphs. A paragraph is commands, a line `----`, and the effects, one a line; `#` begins a
comment. `SaveJob` effects are not shown: the apiary asserts that every promise is made durable first.

Commands (words in brackets may be left out; `5s`, `250ms`, `24g` are what they look like):

    submit JOB [model= prompt= max= class= tenant= request= body= deadline= engine= attempts= session=
                pin= prefer=A,B avoid=A,B vram= quant=A,B cc=8.6 context=]
    cancel JOB
    worker W [model= pool= state= engine= slots= kv= context= device= quant= claims=lease-1,lease-2:9
             incarnation=]
    report W [...]          a heartbeat with changed values
    mute W | mute P         no heartbeats or snapshots from now on
    crash W | detach W      the stream breaks
    accept|token|stopped LEASE [epoch= by=W]
    refuse LEASE REASON     finish LEASE [next=5]     fail LEASE REASON [next=5]
    pool P [devices=gpu0:24g:20g:8.6,... models=m:4g,... first]
    process P W model= [state= by-hand exited gone failure=]
    start MODEL [pool= request=]          stop W [keep]
    drain          restart [away=5s]          advance 10s
    settings [default=m keep=m:2 depth= depths=batch:2,... overflow= high_water=]         before anything else;
             [residence= evict=lru|lfu] [max= warm=]            the last two for all models
    scale MODEL [min= max= warm= | reset]   an operator says how many workers
    crowd | uncrowd         from now on the queue is, or is not, as full as it may be
    jobs           print every job that the queen keeps
"""

from dataclasses import replace

from beeyard_core import effect as fx
from beeyard_core import event as ev
from beeyard_core import limits
from beeyard_core.backpressure import Overflow, QueueSettings
from beeyard_core.fleet import (
    CachedModel,
    DesiredWorker,
    Device,
    ProcessReport,
    WorkerReport,
    WorkerState,
)
from beeyard_core.ids import Epoch, JobId, LeaseId, ModelName, PoolId, TenantId, WorkerId
from beeyard_core.job import Finish, Job, PlacementWish, Priority, Requirements
from beeyard_core.queue import JobQueue
from beeyard_core.refusal import Refusal, Refused
from beeyard_core.scaling import Eviction, Scale, ScaleSettings
from beeyard_core.state import Settings

from tests.support.apiary import Apiary
from tests.support.core_values import (
    CrowdedQueue,
    cached_of,
    device_of,
    pool_of,
    report_of,
    spec_of,
)
from tests.support.story_words import Words, number_of

SEPARATOR = "----"
NOTHING = "(nothing)"


class Story:
    """One story being told."""

    def __init__(self) -> None:
        """Start with a queen that knows nobody."""
        self.apiary = Apiary()
        self._calls_count = 0

    def tell(self, line: str) -> list[str]:
        """Carry out one command; return its effects as lines."""
        words = Words(line)
        verb = words.verb.replace("-", "_")
        told: list[str] | list[fx.Effect] = getattr(self, f"_do_{verb}")(words)
        words.finish()
        lines = [each if isinstance(each, str) else self._effect_line(each) for each in told]
        return [line for line in lines if line]

    # --- Clients ---

    def _do_submit(self, words: Words) -> list[fx.Effect]:
        job_id = words.next()
        capability = words.text("cc")
        deadline_ms = words.number("deadline")
        spec = spec_of(
            words.text("model", "m"),
            prompt_tokens=words.number("prompt", 10),
            max_tokens=words.number("max", 20),
            priority=Priority[words.text("class", "normal").upper()],
            tenant_id=TenantId(words.text("tenant", "default")),
            deadline_ms=deadline_ms or None,
            engine=words.text("engine"),
            max_attempts=words.number("attempts", 3),
            requirements=Requirements(
                min_vram_bytes=words.number("vram"),
                quantizations=words.several("quant"),
                min_compute_capability=_capability(capability) if capability else None,
                min_context_tokens=words.number("context"),
            ),
            placement=PlacementWish(
                pin_pool_id=PoolId(words.text("pin")) or None,
                prefer_pool_ids=tuple(map(PoolId, words.several("prefer"))),
                avoid_pool_ids=tuple(map(PoolId, words.several("avoid"))),
            ),
        )
        return self.apiary.happen(
            ev.JobSubmitted(
                job_id=JobId(job_id),
                spec=spec,
                request_id=words.text("request"),
                digest=words.text("body").encode(),
            )
        )

    def _do_cancel(self, words: Words) -> list[fx.Effect]:
        return self.apiary.happen(ev.CancelRequested(JobId(words.next())))

    # --- Workers ---

    def _do_worker(self, words: Words) -> list[fx.Effect]:
        report = _report(words, report_of(words.next()))
        claims = tuple(self._claim(text) for text in words.several("claims"))
        return self.apiary.attach(report, claims, words.text("incarnation"))

    def _claim(self, text: str) -> ev.LeaseClaim:
        lease_id, _, epoch = text.partition(":")
        return ev.LeaseClaim(
            lease_id=LeaseId(lease_id),
            epoch=Epoch(int(epoch or lease_id.rpartition("-")[2])),
            next_index=0,
        )

    def _do_report(self, words: Words) -> list[fx.Effect]:
        worker_id = WorkerId(words.next())
        link = self.apiary.links[worker_id]
        link.report = _report(words, link.report)
        return self.apiary.heartbeat(worker_id)

    def _do_mute(self, words: Words) -> list[fx.Effect]:
        name = words.next()
        if name in self.apiary.pools:
            del self.apiary.pools[PoolId(name)]
        else:
            self.apiary.links[WorkerId(name)].is_mute = True
        return []

    def _do_detach(self, words: Words) -> list[fx.Effect]:
        return self.apiary.detach(WorkerId(words.next()))

    _do_crash = _do_detach

    def _spoken(self, words: Words) -> tuple[WorkerId, LeaseId, Epoch]:
        lease_id = LeaseId(words.next())
        lease = self.apiary.state.leases.get(lease_id)
        epoch = words.number("epoch", int(lease_id.rpartition("-")[2]))
        by = words.text("by", lease.worker_id if lease else "w1")
        return WorkerId(by), lease_id, Epoch(epoch)

    def _do_accept(self, words: Words) -> list[fx.Effect]:
        return self.apiary.happen(ev.OfferAccepted(*self._spoken(words)))

    def _do_refuse(self, words: Words) -> list[fx.Effect]:
        spoken = self._spoken(words)
        return self.apiary.happen(ev.OfferRefused(*spoken, Refusal(words.next())))

    def _do_token(self, words: Words) -> list[fx.Effect]:
        return self.apiary.happen(ev.FirstTokenArrived(*self._spoken(words)))

    def _do_finish(self, words: Words) -> list[fx.Effect]:
        spoken = self._spoken(words)
        finish = Finish(reason="stop", decode_ms=100.0, prefill_ms=10.0)
        return self.apiary.happen(ev.LeaseFinished(*spoken, words.number("next", 20), finish))

    def _do_fail(self, words: Words) -> list[fx.Effect]:
        spoken = self._spoken(words)
        reason = Refusal(words.next())
        return self.apiary.happen(ev.LeaseFailed(*spoken, words.number("next"), reason, "it broke"))

    def _do_stopped(self, words: Words) -> list[fx.Effect]:
        return self.apiary.happen(ev.LeaseStopped(*self._spoken(words)))

    # --- Hosts and operators ---

    def _do_pool(self, words: Words) -> list[fx.Effect]:
        pool_id = PoolId(words.next())
        report = self.apiary.pools.get(pool_id, pool_of(pool_id))
        changes = words.given(
            devices=lambda text: tuple(_device(each) for each in text.split(",")),
            models=lambda text: tuple(_cached(each) for each in text.split(",") if each),
            inventory_fault=str,
        )
        first = words.flag("first")
        return self.apiary.snapshot(replace(report, **changes), is_first=first)  # type: ignore[arg-type]

    def _do_process(self, words: Words) -> list[fx.Effect]:
        report = self.apiary.pools[PoolId(words.next())]
        process = ProcessReport(
            worker_id=WorkerId(words.next()),
            model=ModelName(words.text("model", "m")),
            state=WorkerState(words.text("state", "starting")),
            exited=words.flag("exited"),
            was_killed=words.flag("killed"),
            by_hand=words.flag("by-hand"),
            failure=words.text("failure").replace("-", " "),
        )
        others = tuple(p for p in report.processes if p.worker_id != process.worker_id)
        if words.flag("gone"):
            # It ended while no pool manager was there to see it.
            self.apiary.pools[report.pool_id] = replace(report, processes=others)
            return self.apiary.snapshot(self.apiary.pools[report.pool_id])
        # A host tells of an exit once; what is gone is not in the next snapshot.
        told = self.apiary.snapshot(replace(report, processes=(*others, process)))
        kept = others if process.exited else (*others, process)
        self.apiary.pools[report.pool_id] = replace(report, processes=kept)
        return told

    def _do_start(self, words: Words) -> list[fx.Effect]:
        self._calls_count += 1
        return self.apiary.happen(
            ev.WorkerStartRequested(
                call_id=self._calls_count,
                model=ModelName(words.next()),
                pool_id=PoolId(words.text("pool")) or None,
                request_id=words.text("request"),
            )
        )

    def _do_stop(self, words: Words) -> list[fx.Effect]:
        self._calls_count += 1
        keep = words.flag("keep")
        return self.apiary.happen(
            ev.WorkerStopRequested(
                call_id=self._calls_count, worker_id=WorkerId(words.next()), keep=keep
            )
        )

    # --- The queen itself ---

    def _do_drain(self, _words: Words) -> list[fx.Effect]:
        return self.apiary.happen(ev.DrainBegun())

    def _do_restart(self, words: Words) -> list[fx.Effect]:
        self.apiary.restart(words.number("away"))
        return []

    def _do_advance(self, words: Words) -> list[str]:
        """Tell each tick's effects at once, while the leases that they speak of are still there."""
        left_ms, lines, elapsed_ms = number_of(words.next()), [], 0
        while left_ms > 0:
            tick_ms = min(left_ms, limits.TICK_INTERVAL_MS)
            told = [self._effect_line(effect) for _, effect in self.apiary.advance(tick_ms)]
            left_ms, elapsed_ms = left_ms - tick_ms, elapsed_ms + tick_ms
            lines += [f"@{elapsed_ms / 1000:g}s {line}" for line in told if line]
        return lines

    def _do_settings(self, words: Words) -> list[fx.Effect]:
        keep = tuple(each.partition(":") for each in words.several("keep"))
        otherwise = _scale(words)
        scaling = ScaleSettings(
            by_model={
                ModelName(model): replace(otherwise, min_workers=int(count))
                for model, _, count in keep
            },
            otherwise=otherwise,
            residence_ms=words.number("residence"),
            eviction=Eviction(words.text("evict", "lru")),
        )
        settings = Settings(
            default_model=ModelName(words.text("default")), queue=_queue(words), scaling=scaling
        )
        self.apiary = Apiary(settings)
        return []

    def _do_scale(self, words: Words) -> list[fx.Effect]:
        self._calls_count += 1
        return self.apiary.happen(
            ev.ModelScaleRequested(
                call_id=self._calls_count,
                model=ModelName(words.next()),
                scale=None if words.flag("reset") else _scale(words),
            )
        )

    def _do_crowd(self, _words: Words) -> list[fx.Effect]:
        self.apiary.state.queue = CrowdedQueue()
        return []

    def _do_uncrowd(self, _words: Words) -> list[fx.Effect]:
        self.apiary.state.queue = JobQueue()
        return []

    def _do_jobs(self, _words: Words) -> list[str]:
        return [_job_line(job) for job in self.apiary.state.jobs.values()]

    # --- Telling ---

    def _effect_line(self, effect: fx.Effect) -> str:  # noqa: C901, PLR0912 - one arm an effect
        match effect:
            case fx.SaveJob() | fx.SaveJobSoon() | fx.SaveWork() | fx.AnswerWork():
                return ""
            case fx.SaveScale(model):
                return f"save the scale of {model}"
            case fx.AnswerCall(_, None, None, None):
                return "answer done"
            case fx.Accept(job_id, position, start_ms):
                start = f" start={start_ms}ms" if start_ms else ""
                return f"accept {job_id} position={position}{start}"
            case fx.AcceptAgain(asked_id, job_id):
                return f"accept {asked_id}: it is {job_id}"
            case fx.Refuse(job_id, refused):
                return f"refuse {job_id} {_refused(refused)}"
            case fx.Offer(worker_id, lease_id):
                lease = self.apiary.state.leases.get(lease_id)
                job = self.apiary.state.jobs[lease.job_id] if lease else None
                if lease is None or job is None or job.decision is None:
                    return f"offer {lease_id} -> {worker_id} (already void)"
                return (
                    f"offer {job.job_id} -> {worker_id} {lease_id} attempt={lease.attempt} "
                    f"({job.decision.summary})"
                )
            case fx.Revoke(worker_id, lease_id, _):
                return f"revoke {lease_id} of {worker_id}"
            case fx.AcknowledgeResult(worker_id, lease_id, _):
                return f"acknowledge {lease_id} to {worker_id}"
            case fx.Welcome(worker_id, _, adopted):
                return f"welcome {worker_id} adopted=[{', '.join(each for each, _ in adopted)}]"
            case fx.RefuseWorker(worker_id, _, refused):
                return f"refuse worker {worker_id} {_refused(refused)}"
            case fx.DrainWorker(worker_id):
                return f"drain {worker_id}"
            case fx.AnnounceRequeued(job_id, _):
                return f"requeued {job_id}"
            case fx.AnnounceEnded(job_id):
                return f"ended {_job_line(self.apiary.durable[job_id])}"
            case fx.ForgetJob(job_id):
                return f"forget {job_id}"
            case fx.SendDesired(pool_id, workers):
                return f"desired {pool_id}: {', '.join(map(_desired, workers)) or 'none'}"
            case fx.AnswerCall(_, worker_id, pool_id, refused):
                return f"answer {_refused(refused) if refused else f'{worker_id} on {pool_id}'}"
            case fx.RemoveWorker(worker_id, _):
                return f"remove {worker_id}"
            case fx.CountStaleEpoch(_, lease_id):
                return f"stale {lease_id}"


def _queue(words: Words) -> QueueSettings:
    depths = (each.partition(":") for each in words.several("depths"))
    return QueueSettings(
        depth_max=words.number("depth", limits.QUEUE_DEPTH_MAX),
        depth_max_by_class={Priority[name.upper()]: int(depth) for name, _, depth in depths},
        overflow=Overflow(words.text("overflow", "reject")),
        high_water=float(words.text("high_water", "0.5")),
    )


def _refused(refused: Refused) -> str:
    return f"{refused.reason.value}: {refused.message}"


def _desired(worker: DesiredWorker) -> str:
    return f"{worker.worker_id} {worker.state.value}"


def _job_line(job: Job) -> str:
    line = f"{job.job_id} {job.state.value} attempt={job.attempt}"
    if job.next_index:
        line += f" tokens={job.next_index}"
    return f"{line} {_refused(job.failure)}" if job.failure else line


def _scale(words: Words) -> Scale:
    return Scale(
        min_workers=words.number("min"),
        max_workers=words.number("max") or None,
        keep_warm_ms=words.number("warm") if "warm" in words else None,
    )


def _capability(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor)


def _report(words: Words, report: WorkerReport) -> WorkerReport:
    names = {
        "model": "model",
        "pool": "pool_id",
        "state": "state",
        "engine": "engine",
        "slots": "slots_total",
        "kv": "kv_tokens_total",
        "context": "context_tokens",
        "device": "device",
        "quant": "quantization",
    }
    given = words.given(
        model=ModelName,
        pool=PoolId,
        state=WorkerState,
        engine=str,
        slots=int,
        kv=int,
        context=int,
        device=str,
        quant=str,
    )
    return replace(report, **{names[name]: value for name, value in given.items()})  # type: ignore[arg-type]


def _device(text: str) -> Device:
    uuid, total, free, *capability = text.split(":")
    return device_of(
        uuid,
        vram_total_bytes=number_of(total),
        vram_free_bytes=number_of(free),
        compute_capability=_capability(capability[0]) if capability else None,
    )


def _cached(text: str) -> CachedModel:
    model, _, required = text.partition(":")
    required, _, fault = required.partition("!")
    return cached_of(
        model, required_bytes=number_of(required or "4g"), fault=fault.replace("-", " ")
    )


def retell(text: str) -> str:
    """Return the story with what really happens below each `----`."""
    story = Story()
    told: list[str] = []
    effects: list[str] = []
    in_effects = False
    for line in text.splitlines():
        stripped = line.strip()
        if in_effects and stripped:
            continue
        if stripped == SEPARATOR:
            in_effects = True
            told += [line, *(effects or [NOTHING])]
            effects = []
            continue
        in_effects = False
        told.append(line)
        if stripped and not stripped.startswith("#"):
            effects += story.tell(stripped)
    assert not effects, f"nothing below {SEPARATOR} for: {effects}"
    return "\n".join(told).rstrip() + "\n"
