"""Scales between the wire and the core."""

from beeyard.queen.v1 import fleet_service_pb2 as pb
from beeyard_core.ids import ModelName
from beeyard_core.scaling import Scale
from beeyard_core.state import QueenState


def scale_of(wire: pb.Scale) -> Scale:
    """Return a scale as the core has it; whether it makes sense, the core says."""
    return Scale(
        min_workers=wire.min_workers,
        max_workers=wire.max_workers if wire.HasField("max_workers") else None,
        keep_warm_ms=wire.keep_warm_ms if wire.HasField("keep_warm_ms") else None,
    )


def model_scales_of(
    state: QueenState, models: list[pb.FleetModel], model: ModelName
) -> list[pb.ModelScale]:
    """Return what is wanted of each model that is known or has a scale, by name; of one only, if one is named."""
    settings = state.settings.scaling
    known = {ModelName(each.model): each for each in models}
    names = {*known, *settings.by_model, *state.scales.by_model}
    return [
        _model_scale_of(state, name, known.get(name) or pb.FleetModel())
        for name in sorted(names)
        if model in ("", name)
    ]


def _model_scale_of(state: QueenState, model: ModelName, there: pb.FleetModel) -> pb.ModelScale:
    wanted = state.scale_of(model)
    return pb.ModelScale(
        model=model,
        scale=pb.Scale(
            min_workers=wanted.min_workers,
            max_workers=wanted.max_workers,
            keep_warm_ms=wanted.keep_warm_ms,
        ),
        source=_source_of(state, model),
        workers_ready=there.workers_ready,
        workers_starting=there.workers_starting,
        jobs_queued=there.jobs_queued,
    )


def _source_of(state: QueenState, model: ModelName) -> "pb.ScaleSource.ValueType":
    if model in state.scales.by_model:
        return pb.SCALE_SOURCE_RUN_TIME
    if model in state.settings.scaling.by_model:
        return pb.SCALE_SOURCE_FILE
    return pb.SCALE_SOURCE_DEFAULT
