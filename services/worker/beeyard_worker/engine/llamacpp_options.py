"""How llama.cpp is configured and how one generation is asked for: what has a default there is pinned here."""

import dataclasses
import os
import pathlib
from types import ModuleType
from typing import Any, Final

from beeyard_core.limits import SEED_MAX

from beeyard_worker.engine.port import Generation

# How much of a prompt is computed at once, and so how long a cancel or another slot's token may wait: about 0.4 s for
# a 270M model on one core. A GPU is busy only with more.
_PROMPT_BATCH_CPU: Final = 128
_PROMPT_BATCH_GPU: Final = 512
# llama.cpp takes the largest seed for "draw one".
_SEED_RANDOM: Final = SEED_MAX
_SILENT: Final = -1
#: For prompts to be counted and templates to be applied, which takes milliseconds. The server keeps a thread busy with
#: each connection and does not always start another: then a request waits until an earlier connection was idle for 5 s.
HTTP_CONNECTIONS: Final = 2


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LlamaOptions:
    """What an operator may choose.

    Attributes:
        slots: Generations at once.
        context_tokens: Context of each slot; 0: what the model was trained for.
        threads: Threads that compute; 0: half of the cores.
        gpu_layers: Layers on the GPU; 0: none, -1: all.
        kv_tokens: KV memory that all slots share, in tokens; 0, or a context for each slot: each has its own.
        step_target_ms: What a step should take at most; 0: as long as it takes.
        prefill_tokens_max: Prompt tokens of one step at most; 0: what suits the device.
        reuse_prefix: Keep the KV cache of earlier prompts; None: only with more than one slot, since it changes texts.
    """

    slots: int = 1
    context_tokens: int = 0
    threads: int = 0
    gpu_layers: int = 0
    kv_tokens: int = 0
    step_target_ms: int = 0
    prefill_tokens_max: int = 0
    reuse_prefix: bool | None = None

    @property
    def uses_prefix_cache(self) -> bool:
        """Whether earlier prompts are kept."""
        return self.slots > 1 if self.reuse_prefix is None else self.reuse_prefix

    def memory_tokens(self, context_tokens: int) -> int:
        """Return the KV memory of all slots in tokens, given the context of each."""
        return min(self.kv_tokens or context_tokens * self.slots, context_tokens * self.slots)


def server_params(
    library: ModuleType,
    path: pathlib.Path,
    options: LlamaOptions,
    *,
    context_tokens: int,
    api_key: str,
) -> Any:
    """Return the library's `CommonParams`, which has no types."""
    params = library.CommonParams()
    params.model.path = str(path)
    params.n_parallel = options.slots
    params.n_ctx = options.memory_tokens(context_tokens)
    if params.n_ctx < context_tokens * options.slots:
        # One memory for all, of which a slot takes what it needs. Who may start is counted before, by the worst case:
        # when llama.cpp finds none left, it breaks every answer. What idle slots keep of earlier prompts, it gives up.
        params.kv_unified = True
        params.kv_unified_per_slot = context_tokens
    params.cont_batching = True
    params.n_gpu_layers = options.gpu_layers
    params.fit_params = False  # what was asked for, or an error; never quietly less
    threads = options.threads or max(_cores() // 2, 1)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    batch = _PROMPT_BATCH_GPU if options.gpu_layers else _PROMPT_BATCH_CPU
    if options.prefill_tokens_max:
        # llama.cpp counts the tokens of those that decode as well, and puts them first.
        batch = options.prefill_tokens_max + (options.slots if options.slots > 1 else 0)
    params.n_batch = params.n_ubatch = batch
    params.cache_prompt = options.uses_prefix_cache
    params.cache_ram_mib = 0  # no second cache beside the slots' own: its default takes up to 8 GiB
    params.warmup = False
    params.verbosity = _SILENT
    params.api_keys = [api_key]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    # One more, since a connection that was closed keeps its thread for a moment.
    params.n_threads_http = HTTP_CONNECTIONS + 1
    params.ui = False
    params.endpoint_slots = False
    return params


def completion_body(
    generation: Generation, prompt: str, *, reuse_prefix: bool
) -> dict[str, object]:
    """Return the request for one generation.

    Stop strings are not passed on: ours span the seam of a continuation, too.
    """
    # Text and ids mixed: the prompt is tokenised as always, and the ids follow without a seam. An earlier attempt on an
    # engine without ids left only its text.
    ids = generation.resume_ids
    return {
        "prompt": [prompt, *ids] if ids else prompt + generation.resume_text,
        "n_predict": generation.max_tokens - generation.resume_count,
        "seed": _seed(generation),
        "temperature": generation.temperature,
        "top_k": generation.top_k,
        "top_p": generation.top_p,
        "min_p": 0.0,
        "samplers": ["top_k", "top_p", "temperature"],
        "cache_prompt": reuse_prefix,
        "stream": True,
        "return_progress": True,
        "timings_per_token": True,
        "n_probs": 1,
        "post_sampling_probs": True,
    }


def _seed(generation: Generation) -> int:
    # A continuation that started the same sequence of random numbers again would repeat the choices of the beginning.
    mixed = (generation.seed + generation.resume_count * 0x9E3779B1) & SEED_MAX
    return 0 if mixed == _SEED_RANDOM else mixed


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
