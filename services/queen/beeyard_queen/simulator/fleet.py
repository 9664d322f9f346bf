"""The fleet of a simulation: what a small YAML file says of models, hosts, GPUs and the workers that run at the start.

    models:
      - {name: small, vram_gib: 20, slots: 8, tokens_per_s: 50, prefill_tokens_per_s: 4000, load_s: 20}
    hosts:
      - {name: host, count: 4, gpus: [{vram_gib: 80, count: 2}], workers: [{model: small, count: 4}]}

Every host can start every model unless it lists those it can.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Final

from beeyard_core import limits
from beeyard_core.fleet import Device, Traits
from beeyard_core.ids import ModelName, PoolId, WorkerId
from pydantic import Field

from beeyard_queen.policy.yaml_conditions import Shape
from beeyard_queen.policy.yaml_source import Node
from beeyard_queen.simulator.shapes import (
    GIB,
    Count,
    Name,
    Seconds,
    Speed,
    Tokens,
    fault_at,
    read_document,
)

_Vram = Annotated[float, Field(gt=0, le=1_000_000)]
_Slots = Annotated[int, Field(ge=1, le=limits.SLOTS_MAX)]


class _Geo(Shape):
    """Where a host stands, in degrees."""

    lat: float = Field(ge=-90, le=90)
    lon: float = Field(ge=-180, le=180)


class _Model(Shape):
    """What hosts can load, and how fast a worker of it is."""

    name: Name
    vram_gib: _Vram = Field(description="What a worker of it takes of its GPU.")
    slots: _Slots = Field(8, description="Answers that a worker generates at once.")
    tokens_per_s: Speed = Field(50.0, description="Decode speed of one slot.")
    prefill_tokens_per_s: Speed = Field(4_000.0, description="Prompt tokens a second.")
    kv_tokens: Tokens | None = Field(None, description="KV memory; the context for each slot.")
    context_tokens: Tokens = Field(8_192, description="Longest prompt plus answer.")
    load_s: float = Field(
        20.0, ge=0, le=limits.SIMULATED_LOAD_MS_MAX / 1_000, description="Time to load it."
    )
    engine: Name = "llamacpp"
    quantization: str = Field("", max_length=limits.ID_BYTES_MAX)


class _Gpu(Shape):
    """GPUs of one kind."""

    vram_gib: _Vram
    count: int = Field(1, ge=1, le=limits.SIMULATED_GPUS_PER_HOST_MAX)
    name: Name = "simulated GPU"
    compute_capability: str = Field("9.0", pattern=r"^[0-9]{1,2}\.[0-9]{1,2}$")


class _Workers(Shape):
    """Workers that run at the start; what they say of themselves goes before what their model says."""

    model: Name
    count: Count = 1
    vram_gib: _Vram | None = None
    slots: _Slots | None = None
    tokens_per_s: Speed | None = None
    prefill_tokens_per_s: Speed | None = None
    kv_tokens: Tokens | None = None


class _Host(Shape):
    """Hosts of one kind."""

    name: Name
    count: int = Field(1, ge=1, le=limits.SIMULATED_HOSTS_MAX)
    gpus: list[_Gpu] = Field(min_length=1, max_length=limits.SIMULATED_GPUS_PER_HOST_MAX)
    workers: list[_Workers] = Field([], max_length=limits.SIMULATED_MODELS_MAX)
    models: list[Name] | None = Field(None, max_length=limits.SIMULATED_MODELS_MAX)
    geo: _Geo | None = Field(None, description="Where it stands.")
    cost_per_token: float = Field(0.0, ge=0, le=1_000_000)
    capability: str = Field("", max_length=limits.ID_BYTES_MAX)


class FleetFile(Shape):
    """A fleet to simulate."""

    models: list[_Model] = Field(min_length=1, max_length=limits.SIMULATED_MODELS_MAX)
    hosts: list[_Host] = Field(min_length=1, max_length=limits.SIMULATED_HOSTS_MAX)
    report_s: Seconds = Field(
        1.0, gt=0, le=2.5, description="How often hosts and workers report; fewer cost less."
    )


_NOTHING_SAID: Final = Traits()


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedModel:
    """A model, and the speed of every worker of it. Memory in bytes, times in milliseconds."""

    name: ModelName
    vram_bytes: int
    slots: int
    tokens_per_s: float
    prefill_tokens_per_s: float
    kv_tokens: int
    context_tokens: int
    load_ms: int
    engine: str
    quantization: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StartingWorker:
    """A worker that runs when the simulation begins."""

    worker_id: WorkerId
    model: SimulatedModel
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedPool:
    """One host: devices as they are when nothing runs, and what runs at the start."""

    pool_id: PoolId
    devices: tuple[Device, ...]
    models: tuple[ModelName, ...]
    workers: tuple[StartingWorker, ...]
    traits: Traits = _NOTHING_SAID


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedFleet:
    """Everything that can run a job."""

    models: dict[ModelName, SimulatedModel]
    pools: tuple[SimulatedPool, ...]
    report_ms: int = 1_000


def read_fleet(text: str | bytes, file: str = "") -> SimulatedFleet:
    """Read a fleet from YAML.

    Args:
        text: The document.
        file: Its name, for messages.

    Raises:
        ScenarioInvalid: It describes no fleet; with line and column.
    """
    found, root = read_document(FleetFile, text, file)
    models: dict[ModelName, SimulatedModel] = {}
    for index, model in enumerate(found.models):
        name = ModelName(model.name)
        if name in models:
            raise fault_at(root, ("models", index, "name"), "another model has this name", file)
        models[name] = _model(model)
    pools: list[SimulatedPool] = []
    for index, host in enumerate(found.hosts):
        path = ("hosts", index)
        for number in range(host.count):
            suffix = "" if host.count == 1 else f"-{number + 1:0{len(str(host.count))}}"
            pools.append(_pool(host, f"{host.name}{suffix}", models, (root, path, file)))
        if len(pools) > limits.SIMULATED_HOSTS_MAX:
            message = f"more than {limits.SIMULATED_HOSTS_MAX} hosts in all"
            raise fault_at(root, path, message, file)
    _check_totals(pools, root, file)
    return SimulatedFleet(
        models=models, pools=tuple(pools), report_ms=max(int(found.report_s * 1_000), 1)
    )


def _check_totals(pools: list[SimulatedPool], root: Node, file: str) -> None:
    if len({pool.pool_id for pool in pools}) < len(pools):
        raise fault_at(root, ("hosts",), "two hosts have the same name", file)
    if sum(len(pool.workers) for pool in pools) > limits.WORKERS_MAX:
        raise fault_at(root, ("hosts",), f"more than {limits.WORKERS_MAX} workers in all", file)


def _model(model: _Model) -> SimulatedModel:
    return SimulatedModel(
        name=ModelName(model.name),
        vram_bytes=int(model.vram_gib * GIB),
        slots=model.slots,
        tokens_per_s=model.tokens_per_s,
        prefill_tokens_per_s=model.prefill_tokens_per_s,
        kv_tokens=model.kv_tokens or model.slots * model.context_tokens,
        context_tokens=model.context_tokens,
        load_ms=int(model.load_s * 1_000),
        engine=model.engine,
        quantization=model.quantization,
    )


_Where = tuple[Node, tuple[str | int, ...], str]


def _pool(
    host: _Host, name: str, models: dict[ModelName, SimulatedModel], where: _Where
) -> SimulatedPool:
    root, path, file = where
    devices = _devices(host, name)
    if len(devices) > limits.SIMULATED_GPUS_PER_HOST_MAX:
        message = f"more than {limits.SIMULATED_GPUS_PER_HOST_MAX} GPUs on a host"
        raise fault_at(root, (*path, "gpus"), message, file)
    free = {device.uuid: device.vram_total_bytes for device in devices}
    workers: list[StartingWorker] = []
    for index, wanted in enumerate(host.workers):
        here = (*path, "workers", index, "model")
        model = models.get(ModelName(wanted.model))
        if model is None:
            raise fault_at(root, here, "there is no such model above", file)
        own = _own(model, wanted)
        for _ in range(wanted.count):
            device = max(free, key=lambda uuid: free[uuid])
            if free[device] < own.vram_bytes:
                message = f"no GPU has room for worker {len(workers) + 1} of the host"
                raise fault_at(root, here, message, file)
            free[device] -= own.vram_bytes
            worker_id = WorkerId(f"{name}-worker-{len(workers) + 1:02}")
            workers.append(StartingWorker(worker_id=worker_id, model=own, device=device))
            if len(workers) > limits.WORKERS_PER_POOL_MAX:
                message = f"more than {limits.WORKERS_PER_POOL_MAX} workers on a host"
                raise fault_at(root, here, message, file)
    for index, listed in enumerate(host.models or ()):
        if ModelName(listed) not in models:
            raise fault_at(root, (*path, "models", index), "there is no such model above", file)
    loadable = tuple(models) if host.models is None else tuple(map(ModelName, host.models))
    return SimulatedPool(
        pool_id=PoolId(name),
        devices=devices,
        models=loadable,
        workers=tuple(workers),
        traits=Traits(
            cost_per_token=host.cost_per_token,
            latitude=host.geo.lat if host.geo else None,
            longitude=host.geo.lon if host.geo else None,
            capability=host.capability,
        ),
    )


def _own(model: SimulatedModel, wanted: _Workers) -> SimulatedModel:
    """Return a model as some workers of it serve it."""
    slots = wanted.slots or model.slots
    # KV memory that nobody named grows with the slots.
    is_usual = model.kv_tokens == model.slots * model.context_tokens
    kv_tokens = slots * model.context_tokens if is_usual else model.kv_tokens
    return replace(
        model,
        vram_bytes=int(wanted.vram_gib * GIB) if wanted.vram_gib else model.vram_bytes,
        slots=slots,
        tokens_per_s=wanted.tokens_per_s or model.tokens_per_s,
        prefill_tokens_per_s=wanted.prefill_tokens_per_s or model.prefill_tokens_per_s,
        kv_tokens=wanted.kv_tokens or kv_tokens,
    )


def _devices(host: _Host, name: str) -> tuple[Device, ...]:
    devices: list[Device] = []
    for gpu in host.gpus:
        major, _, minor = gpu.compute_capability.partition(".")
        for _ in range(gpu.count):
            vram = int(gpu.vram_gib * GIB)
            devices.append(
                Device(
                    uuid=f"{name}-gpu-{len(devices)}",
                    kind="gpu",
                    name=gpu.name,
                    vram_total_bytes=vram,
                    vram_free_bytes=vram,
                    compute_capability=(int(major), int(minor)),
                )
            )
    return tuple(devices)
