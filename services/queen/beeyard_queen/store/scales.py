"""What operators said at run time of the workers of single models, as it is remembered, and its rows in SQLite."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import apsw
from beeyard_core.ids import ModelName
from beeyard_core.scaling import Scale

_SAVE: Final = "INSERT OR REPLACE INTO model_scales VALUES (?, ?, ?, ?)"
_FORGET: Final = "DELETE FROM model_scales WHERE model = ?"
_ALL: Final = (
    "SELECT model, min_workers, max_workers, keep_warm_ms FROM model_scales ORDER BY model"
)


@dataclass(frozen=True, slots=True)
class ScaleRow:
    """The scale of one model; None where nothing bounds."""

    model: str
    min_workers: int
    max_workers: int | None
    keep_warm_ms: int | None


def scale_row_of(model: ModelName, scale: Scale) -> ScaleRow:
    """Return what is remembered of a scale."""
    return ScaleRow(model, scale.min_workers, scale.max_workers, scale.keep_warm_ms)


def scales_of(rows: Iterable[ScaleRow]) -> dict[ModelName, Scale]:
    """Return remembered scales as the core has them."""
    return {
        ModelName(row.model): Scale(
            min_workers=row.min_workers,
            max_workers=row.max_workers,
            keep_warm_ms=row.keep_warm_ms,
        )
        for row in rows
    }


def save_scales(connection: apsw.Connection, scales: Mapping[str, ScaleRow | None]) -> None:
    """Insert, replace or, where there is none any more, delete rows."""
    for model, row in scales.items():
        if row is None:
            connection.execute(_FORGET, (model,))
        else:
            values = (row.model, row.min_workers, row.max_workers, row.keep_warm_ms)
            connection.execute(_SAVE, values)


def all_scales(connection: apsw.Connection) -> tuple[ScaleRow, ...]:
    """Return every row, by model."""
    return tuple(ScaleRow(*values) for values in connection.execute(_ALL))
