"""Rows, deltas and the mirror's records have the same fields in the same order, and equal worlds read alike."""

from collections.abc import Iterator

import pytest
from beeyard_core.policy.world import (
    CLASSES,
    GpuRow,
    HistoryRow,
    JobRow,
    ModelRow,
    PoolRow,
    PrefixRow,
    Row,
    RunningRow,
    TenantRow,
    WorkerRow,
    World,
)
from beeyard_queen.policy.deltas import KINDS, delta_of, digest, snapshot

from tests.support.mirror import Mirror
from tests.support.sample_world import NOW_MS, sample_world

#: A parameter that Lua calls otherwise: a record's own id, a word of Lua, a list as text.
OTHERWISE = {
    ("worker", "worker_id"): "id",
    ("worker", "gpu_ids"): "gpu_ids_csv",
    ("job", "job_id"): "id",
    ("job", "type"): "type_",
    ("pool", "pool_id"): "id",
    ("gpu", "gpu_id"): "id",
    ("tenant", "tenant_id"): "id",
}
PARAMETERS = """
local names, call, at = {}, M[...], 1
while debug.getlocal(call, at) do
  names[at] = debug.getlocal(call, at)
  at = at + 1
end
return table.concat(names, " ")
"""


@pytest.mark.parametrize(("row", "kind"), KINDS.items(), ids=KINDS.values())
def test_a_delta_takes_the_fields_of_its_row_in_their_order(row: type[Row], kind: str) -> None:
    of_row = [name for name in row._fields if name != "labels"]
    assert Mirror().run(PARAMETERS, kind).split() == [
        OTHERWISE.get((kind, name), name) for name in of_row
    ]


def told(row: type[Row], number: int) -> Row:
    """A row in which no two fields are alike."""
    values: dict[str, object] = {}
    for at, name in enumerate(row._fields, start=100 * number):
        kind = str(row.__annotations__[name])
        if name in ("pool_id", "worker_id", "priority", "labels"):
            # These must exist, or be one of a few.
            values[name] = {"priority": CLASSES[2], "labels": (("a", "b"),)}.get(
                name, f"the {name}"
            )
        elif "str" in kind:
            values[name] = f"{name} ü {at}"
        elif "bool" in kind:
            values[name] = True
        else:
            values[name] = at + 0.1 if "float" in kind else at << 33
    made: Row = row(**values)  # type: ignore[arg-type]  # each by the type of its field
    return made


def test_every_field_arrives() -> None:
    world = World()
    for number, of in enumerate(KINDS):
        keep(world, told(of, number))
    mirror = Mirror(world)
    mirror.begin(NOW_MS)
    assert mirror.digest() == digest(world)
    for kind, row, view in viewed(mirror, world):
        for field in row._fields:
            if field in ("geo_lat", "geo_lon", "labels", "seq", "gpu_ids"):
                continue
            name = OTHERWISE.get((kind, field), field)
            given = view[field if name == "type_" else name]
            assert given == getattr(row, field), (kind, field)


def keep(world: World, row: Row) -> None:
    match row:
        case WorkerRow():
            world.workers[row.worker_id] = row
        case JobRow():
            world.jobs[row.job_id] = row
        case RunningRow():
            world.running[row.job_id] = row
        case PrefixRow():
            world.prefixes[row.worker_id, row.prompt_hash] = row
        case PoolRow():
            world.pools[row.pool_id] = row
        case GpuRow():
            world.gpus[row.pool_id, row.gpu_id] = row
        case TenantRow():
            world.tenants[row.tenant_id] = row
        case ModelRow():
            world.models[row.ref] = row
        case HistoryRow():
            world.history[row.model_ref, row.device] = row


def viewed(mirror: Mirror, world: World) -> Iterator[tuple[str, Row, dict[str, object]]]:
    """Each row with the view that a policy has of it."""
    model = next(iter(world.models))
    measured = next(iter(world.history.values()))
    yield "worker", world.workers["the worker_id"], mirror.value("context.workers[1]")
    yield "job", next(iter(world.jobs.values())), mirror.value("context.queue[1]")
    yield "pool", world.pools["the pool_id"], mirror.value("context.pools[1]")
    yield "gpu", next(iter(world.gpus.values())), mirror.value("context.pools[1].gpus[1]")
    yield "tenant", next(iter(world.tenants.values())), mirror.value("context.tenants[1]")
    yield "model", world.models[model], mirror.run("return context.catalog.models[...]", model)
    history = "return helpers.get_historical_metrics(...)"
    yield "history", measured, mirror.run(history, measured.model_ref, measured.device)


def test_a_difference_anywhere_shows_in_the_digest() -> None:
    world = sample_world()
    before = digest(world)
    mirror = Mirror(world)
    for row in (*world.rows(),):
        changed = Mirror(world)
        kind, *values = delta_of(row)
        last = values[-1]
        changed.apply(
            (
                kind,
                *values[:-1],
                not last if isinstance(last, bool) else f"{last}1" if isinstance(last, str) else 77,
            )
        )
        assert changed.digest() != before
    assert mirror.digest() == before


#: Everything that a policy can read, written out.
READ_ALL = """
local out, seen = {}, {}
local function tell(value, depth)
  if type(value) ~= "table" then
    out[#out + 1] = tostring(value)
  elseif depth < 6 then
    for key, each in pairs(value) do
      if type(each) ~= "function" and key ~= "helpers" then
        out[#out + 1] = tostring(key)
        tell(each, depth + 1)
      end
    end
  end
end
tell(context, 0)
for _ = 1, 5 do
  out[#out + 1] = tostring(helpers.random())
  out[#out + 1] = helpers.find_worker_round_robin("llama-7b").id
end
return table.concat(out, ";")
"""


def test_two_states_read_the_same_world_alike_byte_for_byte() -> None:
    world = sample_world()
    one, other = Mirror(), Mirror()
    one.apply(*snapshot(world))
    # Jobs must come after what they may be compared with; all else in any order.
    other.apply(
        *sorted(
            snapshot(world), key=lambda delta: (delta[0] in ("prefix", "job_label"), str(delta))
        )
    )
    for mirror in (one, other):
        mirror.begin(NOW_MS, seed=3)
    assert one.digest() == other.digest()
    assert one.run(READ_ALL) == other.run(READ_ALL)
