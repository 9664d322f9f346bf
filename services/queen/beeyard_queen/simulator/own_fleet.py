"""A queen's own fleet, written down as one to simulate, and what had to be assumed of it.

Workers say how many slots they have and how fast they decode; how fast they read a prompt and how long a model loads,
nobody ever told the queen. What is not known is assumed, and said.
"""

import json
from dataclasses import dataclass, field
from typing import Any, Final

from beeyard_core.fleet import Fleet, Pool, Worker
from beeyard_core.ids import PoolId
from beeyard_core.speeds import PREFILL_SPEEDUP

from beeyard_queen.simulator.shapes import GIB

_TOKENS_PER_S: Final = 50.0
_LOAD_S: Final = 20.0
#: A worker of which nobody knows what it takes.
_TINY_GIB: Final = 1 / 1024

_Plain = dict[str, Any]


@dataclass(slots=True)
class OwnFleet:
    """The fleet in the making."""

    models: dict[str, _Plain] = field(default_factory=dict)
    hosts: list[_Plain] = field(default_factory=list)
    notes: set[str] = field(default_factory=set)


def own_fleet(fleet: Fleet) -> tuple[str, list[str]]:
    """Return a fleet as YAML, empty if there is nothing to run a job on, and what was assumed of it."""
    own = OwnFleet()
    workers: dict[PoolId, list[Worker]] = {}
    for worker in fleet.workers.values():
        if worker.report.slots_total > 0 and not worker.is_drained:
            workers.setdefault(worker.report.pool_id, []).append(worker)
    for pool_id in sorted({*fleet.pools, *workers}):
        _add_host(own, pool_id, fleet.pools.get(pool_id), workers.get(pool_id, []))
    if not own.models or not own.hosts:
        return "", []
    told = {"models": list(own.models.values()), "hosts": own.hosts}
    return json.dumps(told), sorted(own.notes)


def _add_host(own: OwnFleet, pool_id: PoolId, pool: Pool | None, workers: list[Worker]) -> None:
    gpus = [
        {"vram_gib": device.vram_total_bytes / GIB, "name": device.name or "unnamed"}
        for device in (pool.report.devices if pool else ())
        if device.vram_total_bytes > 0
    ]
    if not gpus:
        own.notes.add("Hosts without a pool manager, or without a device that it knows, have room.")
        gpus = [{"vram_gib": 1024.0, "name": "assumed"}]
    required = {one.model: one.required_bytes for one in (pool.report.models if pool else ())}
    host: _Plain = {"name": pool_id or "no-pool", "gpus": gpus, "workers": [], "models": []}
    for worker in sorted(workers, key=lambda one: one.report.worker_id):
        host["workers"].append(_worker(own, worker))
    for cached in pool.report.models if pool else ():
        if not cached.fault and required[cached.model] > 0:
            model = own.models.setdefault(cached.model, _model(cached.model))
            model["vram_gib"] = cached.required_bytes / GIB
            host["models"].append(cached.model)
            own.notes.add(f"A model takes {_LOAD_S:g} s to load.")
    if host["workers"] or host["models"]:
        own.hosts.append(host)


def _model(name: str) -> _Plain:
    return {"name": name, "vram_gib": _TINY_GIB, "load_s": _LOAD_S}


def _worker(own: OwnFleet, worker: Worker) -> _Plain:
    report = worker.report
    tokens_per_s = report.tokens_per_s
    if not tokens_per_s > 0:
        tokens_per_s = _TOKENS_PER_S
        own.notes.add(
            f"Workers that have not measured their speed decode {_TOKENS_PER_S:g} tokens/s."
        )
    own.notes.add(f"A prompt is read {PREFILL_SPEEDUP} times as fast as an answer is decoded.")
    model = own.models.setdefault(report.model, _model(report.model))
    model["context_tokens"] = max(report.context_tokens, 1) if report.context_tokens else 8_192
    model["engine"] = report.engine or "unknown"
    return {
        "model": report.model,
        # It runs already, so there is room for it, whatever it takes.
        "vram_gib": _TINY_GIB,
        "slots": report.slots_total,
        "tokens_per_s": tokens_per_s,
        "prefill_tokens_per_s": PREFILL_SPEEDUP * tokens_per_s,
        "kv_tokens": report.kv_tokens_total or report.slots_total * 8_192,
    }
