"""How many completions llama.cpp should have at once, by the steps that it reports.

llama.cpp plans its own steps, as the batch planner would: every completion that decodes gets a token, and what is left
of the step's batch goes to prompts. What it lets others decide is how many completions there are. Each of its chunks
says how many tokens its completion has and how long decoding took so far, so the time of the steps between two chunks
is known, and so is what went through them: the completions that ran, and the prompt tokens that the others report.

One completion, the one that runs longest, tells the steps; the others would tell the same ones again.
"""

from collections.abc import Callable
from typing import Final

from beeyard_core.batching.slot_window import SlotWindow, affordable_sequences
from beeyard_core.batching.step_cost import StepCost, StepLoad

from beeyard_worker.engine.llamacpp_run import Chunk

#: A chunk may tell of many steps, when its reader was away; the window needs each.
_STEPS_MAX: Final = 64


class LlamaPace:
    """Measures steps and opens slots."""

    def __init__(self, *, slots: int, target_ms: float) -> None:
        """Open all `slots` if there is no target."""
        self._target_ms = target_ms
        self._window = SlotWindow(most=slots, target_ms=target_ms)
        self._on_slots: Callable[[int], None] = lambda _count: None
        self._told = self._window.opened
        self._prompt_tokens = 0
        self._runs: dict[object, _Progress] = {}
        self.cost = StepCost()

    def watch_slots(self, on_change: Callable[[int], None]) -> None:
        """Call `on_change` when another number of completions should run; with the present one at once."""
        if self._target_ms > 0:
            self._on_slots = on_change
            on_change(self._told)

    def begin(self, run: object) -> None:
        """Note that a completion runs."""
        self._runs[run] = _Progress()

    def end(self, run: object) -> None:
        """Note that it does not any more."""
        self._runs.pop(run, None)

    def note(self, run: object, chunk: Chunk) -> None:
        """Read what a chunk of a completion says of the steps."""
        if self._target_ms <= 0 or run not in self._runs:
            return
        progress = self._runs[run]
        self._prompt_tokens += progress.prompt_tokens_more(chunk)
        steps, ms = progress.steps_more(chunk)
        decoding = [each for each, at in self._runs.items() if at.generated > 0]
        if steps <= 0 or not decoding or decoding[0] is not run:
            return
        self._observe(min(steps, _STEPS_MAX), ms / steps, len(decoding))

    def _observe(self, steps: int, step_ms: float, decoding: int) -> None:
        prompt_tokens, self._prompt_tokens = self._prompt_tokens // steps, 0
        load = StepLoad(prefill_tokens=prompt_tokens, decode_sequences=decoding, kv_tokens=0)
        for _ in range(steps):
            self.cost.observe(load, step_ms)
            self._window.observe(
                step_ms=step_ms,
                sequences=len(self._runs),
                affordable=affordable_sequences(self.cost, self._target_ms, kv_tokens_each=0.0),
            )
        if self._window.opened != self._told:
            self._told = self._window.opened
            self._on_slots(self._told)


class _Progress:
    """How far one completion was at its last chunk."""

    def __init__(self) -> None:
        self.generated = 0
        self._decode_ms = 0.0
        self._processed = 0

    def prompt_tokens_more(self, chunk: Chunk) -> int:
        """Return how many tokens of its prompt were computed since."""
        told = chunk.get("prompt_progress")
        if not told:
            return 0
        # What was found in the cache took no time.
        processed = int(told["processed"]) - int(told["cache"])
        more, self._processed = processed - self._processed, processed
        return max(more, 0)

    def steps_more(self, chunk: Chunk) -> tuple[int, float]:
        """Return how many steps its decoding went through since, and their milliseconds."""
        told = chunk.get("timings")
        if not told:
            return 0, 0.0
        generated, decode_ms = int(told["predicted_n"]), float(told["predicted_ms"])
        steps, ms = generated - self.generated, decode_ms - self._decode_ms
        # The first token is the prompt's own: no step of decoding lies before it.
        steps = steps if self.generated > 0 else generated - 1
        self.generated, self._decode_ms = generated, decode_ms
        return steps, ms
