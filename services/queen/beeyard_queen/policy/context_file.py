"""A world written down as JSON, in the shape in which a policy sees it: what `policy try --context` reads.

`{"queue": [...], "pools": [{"id", "workers": [...], "gpus": [...]}], "tenants": [...], "catalog": {"models": [...],
"aliases": {...}}, "metrics": {...}, "config": {...}, "now_ms": N}`, everything optional. Names are those of the
context; an unknown one is an error that says where it stands, because a misspelt field would otherwise quietly be a
default.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Final, NoReturn, TypeVar, get_args, get_type_hints

from beeyard_core.policy.world import (
    CLASSES,
    GpuRow,
    JobRow,
    ModelRow,
    PoolRow,
    TenantRow,
    WorkerRow,
    World,
)

Object = dict[str, Any]  # what json gives; each value's type is checked before it is used
_SECTIONS: Final = ("queue", "pools", "tenants", "catalog", "metrics", "config", "now_ms")
R = TypeVar("R", JobRow, WorkerRow, PoolRow, GpuRow, TenantRow, ModelRow)


class ContextInvalid(Exception):
    """The file does not describe a world. Correct it at the path that the message names."""


@dataclass(frozen=True)
class Scene:
    """A world at an instant.

    Attributes:
        world: Everything that a policy sees.
        now_ms: The instant.
    """

    world: World
    now_ms: int


def read_context(text: str | bytes) -> Scene:
    """Read a world from JSON.

    Raises:
        ContextInvalid: It is no JSON, or describes no world.
    """
    try:
        root = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as fault:
        raise ContextInvalid(f"not JSON: {fault}") from fault
    _object(root, "context", _SECTIONS)
    now_ms = root.get("now_ms", 0)
    if type(now_ms) is not int:
        raise ContextInvalid("now_ms: a whole number of milliseconds expected")
    world = World()
    for index, entry in enumerate(_list(root.get("queue", []), "queue")):
        job = _job(entry, f"queue[{index + 1}]", index, now_ms)
        world.jobs[job.job_id] = job
    for index, entry in enumerate(_list(root.get("pools", []), "pools")):
        _pool(world, entry, f"pools[{index + 1}]", now_ms)
    for index, entry in enumerate(_list(root.get("tenants", []), "tenants")):
        tenant = _row(TenantRow, entry, f"tenants[{index + 1}]", own_id="tenant_id")
        world.tenants[tenant.tenant_id] = tenant
    _catalog(world, root.get("catalog", {}))
    _figures(world, root)
    return Scene(world, now_ms)


def _job(entry: object, path: str, index: int, now_ms: int) -> JobRow:
    given = dict(_object(entry, path))
    given.setdefault("seq", index + 1)
    waited = given.pop("wait_time_ms", None)
    if waited is not None:
        given.setdefault("queued_at", now_ms - _whole(waited, f"{path}.wait_time_ms"))
    given.setdefault("queued_at", now_ms)
    given.setdefault("created_at", given["queued_at"])
    deadline = given.pop("deadline_ms", None)
    if deadline is not None:
        created = _whole(given["created_at"], f"{path}.created_at")
        given.setdefault("deadline_at", created + _whole(deadline, f"{path}.deadline_ms"))
    labels = _object(given.pop("labels", {}), f"{path}.labels")
    for name, value in labels.items():
        if not isinstance(value, str):
            raise ContextInvalid(f"{path}.labels.{name}: a text expected")
    user = _object(given.pop("user", {}), f"{path}.user", ("geo",))
    _take_geo(given, user.get("geo"), f"{path}.user.geo")
    _take_geo(given, given.pop("geo", None), f"{path}.geo")
    job = _row(JobRow, given, path, own_id="job_id", labels=tuple(sorted(labels.items())))
    if job.priority not in CLASSES:
        raise ContextInvalid(f"{path}.priority: one of {', '.join(CLASSES)} expected")
    return job


def _pool(world: World, entry: object, path: str, now_ms: int) -> None:
    given = dict(_object(entry, path))
    workers = _list(given.pop("workers", []), f"{path}.workers")
    gpus = _list(given.pop("gpus", []), f"{path}.gpus")
    given.setdefault("last_report_ms", now_ms)
    pool = _row(PoolRow, given, path, own_id="pool_id")
    world.pools[pool.pool_id] = pool
    for index, one in enumerate(workers):
        worker = _worker(one, f"{path}.workers[{index + 1}]", pool.pool_id, now_ms)
        world.workers[worker.worker_id] = worker
    for index, one in enumerate(gpus):
        where = f"{path}.gpus[{index + 1}]"
        given = {"pool_id": pool.pool_id, **_object(one, where)}
        gpu = _row(GpuRow, given, where, own_id="gpu_id")
        world.gpus[gpu.pool_id, gpu.gpu_id] = gpu


def _worker(entry: object, path: str, pool_id: str, now_ms: int) -> WorkerRow:
    given = {"pool_id": pool_id, **_object(entry, path)}
    _take_geo(given, given.pop("geo", None), f"{path}.geo")
    uptime_s = given.pop("uptime_s", None)
    if uptime_s is not None:
        given.setdefault("started_at", now_ms - _whole(uptime_s, f"{path}.uptime_s") * 1_000)
    gpu_ids = _list(given.pop("gpu_ids", []), f"{path}.gpu_ids")
    gpu_id = given.pop("gpu_id", None)
    names = [str(one) for one in (gpu_ids or ([] if gpu_id is None else [gpu_id]))]
    return _row(WorkerRow, given, path, own_id="worker_id", gpu_ids=",".join(names))


def _catalog(world: World, entry: object) -> None:
    catalog = _object(entry, "catalog", ("models", "aliases"))
    models = catalog.get("models", [])
    if isinstance(models, dict):
        models = [
            {"ref": ref, **_object(one, f"catalog.models.{ref}")} for ref, one in models.items()
        ]
    for index, one in enumerate(_list(models, "catalog.models")):
        model = _row(ModelRow, one, f"catalog.models[{index + 1}]", own_id="ref")
        world.models[model.ref] = model
    for name, ref in _object(catalog.get("aliases", {}), "catalog.aliases").items():
        if not isinstance(ref, str):
            raise ContextInvalid(f"catalog.aliases.{name}: a model expected")
        world.aliases[name] = ref


def _figures(world: World, root: Object) -> None:
    for name, value in _object(root.get("metrics", {}), "metrics").items():
        if type(value) not in {int, float}:
            raise ContextInvalid(f"metrics.{name}: a number expected")
        world.metrics[name] = value
    for name, value in _object(root.get("config", {}), "config").items():
        if not isinstance(value, str | int | float | bool):
            raise ContextInvalid(f"config.{name}: a text, number or boolean expected")
        world.config[name] = value


def _row(kind: type[R], entry: object, path: str, *, own_id: str, **made: Any) -> R:
    """Return a row of a kind from an object with its fields; `made` are those worked out already."""
    given = dict(_object(entry, path))
    if own_id not in given and "id" in given:
        given[own_id] = given.pop("id")
    hints = get_type_hints(kind)
    names = set(kind._fields) - made.keys()
    for name, value in given.items():
        if name not in names:
            raise ContextInvalid(f"{path}.{name}: unknown; known are {', '.join(sorted(names))}")
        made[name] = _typed(value, hints[name], f"{path}.{name}")
    if not made.get(own_id):
        raise ContextInvalid(f"{path}.id is missing")
    return kind(**made)


def _typed(value: object, hint: Any, path: str) -> object:
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if float in kinds and type(value) is int:
        return float(value)
    if int in kinds and isinstance(value, float):
        return _whole(value, path)
    if type(value) not in kinds:
        wanted = " or ".join(kind.__name__ for kind in kinds if kind is not NoneType)
        raise ContextInvalid(f"{path}: {wanted} expected")
    return value


def _take_geo(given: Object, geo: object, path: str) -> None:
    if geo is None:
        return
    place = _object(geo, path, ("lat", "lon"))
    given["geo_lat"], given["geo_lon"] = place.get("lat"), place.get("lon")


def _whole(value: object, path: str) -> int:
    if type(value) is int or (isinstance(value, float) and value.is_integer()):
        return int(value)
    raise ContextInvalid(f"{path}: a whole number expected")


def _object(value: object, path: str, known: Iterable[str] | None = None) -> Object:
    if not isinstance(value, Mapping):
        raise ContextInvalid(f"{path}: an object expected")
    for name in value:
        if known is not None and name not in known:
            raise ContextInvalid(f"{path}.{name}: unknown; known are {', '.join(known)}")
    return dict(value)


def _list(value: object, path: str) -> list[object]:
    if not isinstance(value, list):
        raise ContextInvalid(f"{path}: a list expected")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
