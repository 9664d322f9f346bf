"""What the worker holds and does now: the one answer that the queen and EngineService both get.

The composition root makes it, the loader and the drain change it, everybody else reads it. Life goes
STARTING -> READY or FAILED -> DRAINING; BUSY is READY without a free slot, and derived.
"""

import dataclasses
import math
from collections.abc import Callable

from beeyard.worker.v1 import engine_service_pb2 as engine_pb
from beeyard_core.fleet import PREFIX_CACHE
from beeyard_core.refusal import Refusal, Refused
from beeyard_runtime.clock import Clock

from beeyard_worker.engine.port import EngineFacts
from beeyard_worker.slots import Slots

# Speed is averaged over about this much decoding: long enough to be steady, short enough that the
# queen sees a device that is throttled.
_SPEED_WINDOW_MS = 10_000.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who the worker is; never changes while the process lives.

    Attributes:
        worker_id: The name under which the fleet knows it.
        pool_id: The host that it runs on.
        model: The name under which jobs ask for the model.
        engine: `llamacpp`, `openai_http` or `synthetic`.
        device: `cpu`, or a GPU's UUID.
        incarnation: Drawn anew at each start of the process.
        extensions: What the operator says that it can do beyond generating.
    """

    worker_id: str
    pool_id: str
    model: str
    engine: str
    device: str
    incarnation: str
    extensions: tuple[str, ...] = ()


class SpeedMeter:
    """Tokens a second of one slot while decoding, over the recent past."""

    __slots__ = ("_ms", "_tokens")

    def __init__(self) -> None:
        """Start with nothing measured."""
        self._tokens = 0.0
        self._ms = 0.0

    def add(self, tokens: int, ms: float) -> None:
        """Count `tokens` that one slot decoded in `ms` milliseconds; older measurements fade."""
        fade = math.exp(-ms / _SPEED_WINDOW_MS)
        self._tokens = self._tokens * fade + tokens
        self._ms = self._ms * fade + ms

    @property
    def tokens_per_s(self) -> float:
        """The measured speed; 0 while nothing was measured."""
        return self._tokens / self._ms * 1_000 if self._ms > 0 else 0.0


class WorkerStatus:
    """The state of this worker; `watch` tells of every change that the queen should hear of at once."""

    def __init__(
        self, identity: Identity, *, slots: Slots, context_tokens: int, clock: Clock
    ) -> None:
        """Start as STARTING, with the slots and context that were configured."""
        self.identity = identity
        self.slots = slots
        self.context_tokens = context_tokens
        self.speed = SpeedMeter()
        self.failure = ""
        self.load_progress = 0.0
        self.is_draining = False
        self._facts: EngineFacts | None = None
        self._clock = clock
        self._started_ms = clock.now().mono_ms
        self.kv_tokens_max = 0
        self._opened = 0
        self.kv_page_tokens = 1
        self._watchers: list[Callable[[], None]] = []

    def watch(self, on_change: Callable[[], None]) -> None:
        """Call `on_change` after each change that should be told at once; not for each job."""
        self._watchers.append(on_change)

    @property
    def is_loaded(self) -> bool:
        """Whether the engine can generate."""
        return self._facts is not None and not self.failure

    @property
    def engine_version(self) -> str:
        """What the engine says of itself; empty until the model is loaded."""
        return self._facts.version if self._facts else ""

    def loading(self, progress: float) -> None:
        """Note how much of the model is loaded, 0 to 1."""
        self.load_progress = min(max(progress, 0.0), 1.0)

    def loaded(self, facts: EngineFacts, slots: Slots) -> None:
        """Note that the model is loaded: what the engine is, and the slots that it really has."""
        self._facts = facts
        self.slots = slots
        if self._opened:
            self.slots.open(self._opened)
        self.context_tokens = facts.context_tokens
        # More may be promised than there is; a single job still has to fit what there is.
        self.kv_tokens_max = facts.kv_tokens or slots.kv_tokens_total
        self.kv_page_tokens = facts.kv_page_tokens
        self.load_progress = 1.0
        self._tell()

    def open_slots(self, count: int) -> None:
        """Have so many slots from now on, and say so at once: offers for slots that closed would be refused."""
        self._opened = count
        if self.is_loaded and count != self.slots.total:
            self.slots.open(count)
            self._tell()

    def failed(self, message: str) -> None:
        """Note that the model cannot be loaded, and why, in words for an operator."""
        self.failure = message
        self._tell()

    def draining(self) -> None:
        """Take no new work from now on. Idempotent."""
        if not self.is_draining:
            self.is_draining = True
            self._tell()

    def refusal(self) -> Refused | None:
        """Return why the worker takes no work at all now; None if it does."""
        if self.is_draining:
            return Refused(
                reason=Refusal.DRAINING, message="the worker is draining and takes no new work"
            )
        if not self.is_loaded:
            message = self.failure or "the model is still loading"
            return Refused(reason=Refusal.WORKER_BUSY, message=message)
        return None

    @property
    def state(self) -> "engine_pb.WorkerState.ValueType":
        """Where in its life the worker is."""
        if self.failure:
            return engine_pb.WORKER_STATE_FAILED
        if self.is_draining:
            return engine_pb.WORKER_STATE_DRAINING
        if self._facts is None:
            return engine_pb.WORKER_STATE_STARTING
        return engine_pb.WORKER_STATE_READY if self.slots.free else engine_pb.WORKER_STATE_BUSY

    def to_wire(self) -> engine_pb.EngineStatus:
        """Return all of it as the wire has it."""
        facts = self._facts
        return engine_pb.EngineStatus(
            worker_id=self.identity.worker_id,
            model=self.identity.model,
            engine=self.identity.engine,
            engine_version=facts.version if facts else "",
            device=self.identity.device,
            state=self.state,
            load_progress=self.load_progress,
            slots_total=self.slots.total,
            slots_free=self.slots.free,
            kv_tokens_total=self.slots.kv_tokens_total,
            kv_tokens_free=self.slots.kv_tokens_free,
            context_tokens=self.context_tokens,
            deterministic=facts.deterministic if facts else False,
            token_ids=facts.token_ids if facts else False,
            quantization=facts.quantization if facts else "",
            failure=self.failure,
            tokens_per_s=self.speed.tokens_per_s,
            extensions=self._extensions(),
            uptime_s=(self._clock.now().mono_ms - self._started_ms) / 1_000,
        )

    def _extensions(self) -> list[str]:
        """What the worker can do beyond generating, once the engine has said what it is."""
        facts = self._facts
        if facts is None:
            return sorted(self.identity.extensions)
        said = {
            "deterministic": facts.deterministic,
            "token_ids": facts.token_ids,
            PREFIX_CACHE: facts.caches_prefixes,
        }
        return sorted({*self.identity.extensions, *(word for word, is_so in said.items() if is_so)})

    def _tell(self) -> None:
        for on_change in self._watchers:
            on_change()
