"""A request to simulate, checked field by field and written down for the process that will do it."""

import json
import math
from typing import Any, Final

from beeyard.queen.v1 import policy_service_pb2 as pb
from beeyard_core import limits
from beeyard_core.job import Priority
from beeyard_core.refusal import Refusal
from beeyard_runtime.rpc_errors import RpcRefusal, refuse

from beeyard_queen.simulator.policies import BASELINES, PLATFORM
from beeyard_queen.simulator.request import ENCLOSED
from beeyard_queen.simulator.shapes import GIB

_PROMPT_MEAN: Final = 256
_COMPLETION_MEAN: Final = 128
_CONTEXT_TOKENS: Final = 8_192
_PREFILL_SPEEDUP: Final = 20
_TOKENS_PER_S: Final = 50.0
_BYTES_MAX: Final = 1 << 50
#: What a trace does not say, in shares.
_TRACE_STREAM: Final = {
    "trace": ENCLOSED,
    "classes": {"interactive": 5, "normal": 3, "batch": 2},
    "tenants": {"ada": 1, "bob": 1, "eve": 1},
    "deadline": {"within_s": 20, "classes": ["interactive"]},
}

_Plain = dict[str, Any]


def wrong(field: str, message: str) -> RpcRefusal:
    """Return the refusal of a field."""
    return refuse(Refusal.INVALID_REQUEST, f"{field} {message}", field=field)


def _within(field: str, value: float, least: float, most: float) -> None:
    if not (math.isfinite(value) and least <= value <= most):
        raise wrong(field, f"must be {least:g} to {most:g}")


def builtin_of(request: pb.SimulatePolicyRequest) -> str:
    """Return which of Beeyard's own policies is to be simulated; empty: none of them.

    Raises:
        RpcRefusal: INVALID_REQUEST.
    """
    if request.builtin and request.HasField("source"):
        raise wrong("builtin", "must be empty if source is set")
    if request.builtin not in {"", PLATFORM, *BASELINES}:
        raise wrong("builtin", f"must be {PLATFORM}, {' or '.join(BASELINES)}")
    return request.builtin


def seed_of(request: pb.SimulatePolicyRequest) -> int:
    """Return the seed.

    Raises:
        RpcRefusal: INVALID_REQUEST.
    """
    _within("seed", request.seed, 0, limits.SEED_MAX)
    return request.seed


def load_of(request: pb.SimulatePolicyRequest) -> tuple[str, bytes]:
    """Return the load as YAML, and the trace that it needs, if any.

    Raises:
        RpcRefusal: INVALID_REQUEST, with the field at fault.
    """
    match request.WhichOneof("load"):
        case "trace":
            if not 0 < len(request.trace) <= limits.SIMULATION_TRACE_BYTES_MAX:
                raise wrong("trace", f"must be 1 to {limits.SIMULATION_TRACE_BYTES_MAX} bytes")
            stream, jobs = dict(_TRACE_STREAM), limits.SIMULATED_JOBS_MAX
            return json.dumps({"jobs": jobs, "streams": [stream]}), request.trace
        case "synthetic":
            return json.dumps(_synthetic(request.synthetic)), b""
        case _:
            raise wrong("load", "must be set: synthetic or trace")


def _synthetic(load: pb.SyntheticLoad) -> _Plain:
    _within("synthetic.jobs", load.jobs, 1, limits.SIMULATED_JOBS_MAX)
    _within("synthetic.arrivals_per_s", load.arrivals_per_s, 1e-6, limits.SIMULATED_RATE_MAX)
    _within("synthetic.tenants", load.tenants, 0, limits.SIMULATED_TENANTS_MAX)
    tokens_max = limits.SIMULATED_TOKENS_MAX
    _within("synthetic.prompt_tokens_mean", load.prompt_tokens_mean, 0, tokens_max)
    _within("synthetic.completion_tokens_mean", load.completion_tokens_mean, 0, tokens_max)
    count = load.tenants or 1
    width = len(str(count))
    stream: _Plain = {
        "rate_per_s": load.arrivals_per_s,
        "tenants": {f"tenant-{number:0{width}}": 1 for number in range(1, count + 1)},
        "prompt_tokens": _length(load.prompt_tokens_mean or _PROMPT_MEAN),
        "answer_tokens": _length(load.completion_tokens_mean or _COMPLETION_MEAN),
    }
    if load.models:
        if len(load.models) > limits.SIMULATED_MODELS_MAX:
            raise wrong("synthetic.models", f"must be at most {limits.SIMULATED_MODELS_MAX}")
        stream["models"] = dict.fromkeys(load.models, 1)
    if load.priorities:
        stream["classes"] = _classes(load)
    return {"jobs": load.jobs, "streams": [stream]}


def _length(mean: int) -> _Plain:
    return {"mean": mean, "most": min(16 * mean, limits.SIMULATED_TOKENS_MAX)}


def _classes(load: pb.SyntheticLoad) -> dict[str, float]:
    shares: dict[str, float] = {}
    for index, share in enumerate(load.priorities):
        field = f"synthetic.priorities[{index}]"
        if share.priority not in {priority.value for priority in Priority}:
            raise wrong(f"{field}.priority", "must be a class")
        _within(f"{field}.weight", share.weight, 0, 1_000_000)
        shares[Priority(share.priority).name.lower()] = share.weight
    if not sum(shares.values()) > 0:
        raise wrong("synthetic.priorities", "must have one weight above 0 at least")
    return shares


def fleet_of(request: pb.SimulatePolicyRequest) -> str:
    """Return the pools of a request as a fleet in YAML.

    Raises:
        RpcRefusal: INVALID_REQUEST, with the field at fault.
    """
    if len(request.pools) > limits.SIMULATED_HOSTS_MAX:
        raise wrong("pools", f"must be at most {limits.SIMULATED_HOSTS_MAX}")
    models: dict[str, _Plain] = {}
    hosts: list[_Plain] = []
    for index, pool in enumerate(request.pools):
        hosts += _hosts(pool, f"pools[{index}]", models)
    return json.dumps({"models": list(models.values()), "hosts": hosts})


def _hosts(pool: pb.SimulatedPool, field: str, models: dict[str, _Plain]) -> list[_Plain]:
    """Return a pool as hosts: one of them has no more workers than a pool manager would take."""
    _check_pool(pool, field)
    model = models.setdefault(pool.model, {"name": pool.model, "vram_gib": 1 / 1024})
    context_tokens = pool.context_tokens or _CONTEXT_TOKENS
    model.setdefault("context_tokens", context_tokens)
    loadable = [
        _loadable(one, f"{field}.loadable[{at}]", models) for at, one in enumerate(pool.loadable)
    ]
    hosts: list[_Plain] = []
    left = pool.workers
    while left > 0:
        count = min(left, limits.WORKERS_PER_POOL_MAX)
        left -= count
        gib = max(pool.vram_bytes / GIB, 1 / 1024)
        workers = {
            "model": pool.model,
            "count": count,
            # Its workers share the device's memory, unless something else could be loaded beside them.
            "vram_gib": gib / count if not loadable else min(1 / 1024, gib / count),
            "slots": pool.slots,
            "tokens_per_s": pool.tokens_per_s,
            "prefill_tokens_per_s": pool.prefill_tokens_per_s
            or _PREFILL_SPEEDUP * pool.tokens_per_s,
            "kv_tokens": pool.kv_tokens or pool.slots * context_tokens,
        }
        name = pool.pool_id if not hosts else f"{pool.pool_id}-{len(hosts) + 1}"
        host = {"name": name, "gpus": [{"vram_gib": gib}], "workers": [workers]}
        hosts.append(host | {"models": loadable})
    return hosts


def _check_pool(pool: pb.SimulatedPool, field: str) -> None:
    for name in ("pool_id", "model"):
        if not getattr(pool, name):
            raise wrong(f"{field}.{name}", "must be set")
    _within(f"{field}.workers", pool.workers, 1, limits.WORKERS_MAX)
    _within(f"{field}.slots", pool.slots, 1, limits.SLOTS_MAX)
    _within(f"{field}.tokens_per_s", pool.tokens_per_s, 1e-3, limits.SIMULATED_SPEED_MAX)
    _within(f"{field}.vram_bytes", pool.vram_bytes, 1, _BYTES_MAX)
    speed_max = limits.SIMULATED_SPEED_MAX
    _within(f"{field}.prefill_tokens_per_s", pool.prefill_tokens_per_s, 0, speed_max)
    _within(f"{field}.context_tokens", pool.context_tokens, 0, limits.SIMULATED_TOKENS_MAX)
    _within(f"{field}.kv_tokens", pool.kv_tokens, 0, limits.SIMULATED_TOKENS_MAX)


def _loadable(model: pb.SimulatedModel, field: str, models: dict[str, _Plain]) -> str:
    if not model.model:
        raise wrong(f"{field}.model", "must be set")
    _within(f"{field}.vram_bytes", model.vram_bytes, 1, _BYTES_MAX)
    _within(f"{field}.load_ms", model.load_ms, 0, limits.SIMULATED_LOAD_MS_MAX)
    _within(f"{field}.slots", model.slots, 0, limits.SLOTS_MAX)
    _within(f"{field}.tokens_per_s", model.tokens_per_s, 0, limits.SIMULATED_SPEED_MAX)
    tokens_per_s = model.tokens_per_s or _TOKENS_PER_S
    models[model.model] = models.get(model.model, {}) | {
        "name": model.model,
        "vram_gib": model.vram_bytes / GIB,
        "load_s": model.load_ms / 1_000,
        "slots": model.slots or 8,
        "tokens_per_s": tokens_per_s,
        "prefill_tokens_per_s": _PREFILL_SPEEDUP * tokens_per_s,
    }
    return model.model
