"""Reads the scales file: how many workers each model should have.

```toml
[default]                      # every model without a table of its own
keep_warm_s = 600              # a worker that nobody used for ten minutes is stopped

[models.small]
min = 1                        # so many always
max = 4                        # and never more; a queue that stays long gets one worker at a time
keep_warm_s = 300
```

Without `keep_warm_s` no worker is stopped for being idle; without `max` the queen by itself starts no second worker.
A model with a table of its own takes nothing from `default`. Unknown keys are errors: a misspelt bound is none.
"""

from pathlib import Path

from beeyard_core import limits
from beeyard_core.ids import ModelName
from beeyard_core.scaling import Scale
from beeyard_runtime.faults import StartFailed
from pydantic import BaseModel, ConfigDict, Field

from beeyard_queen.toml_file import read_toml


class _Default(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    max: int | None = None
    keep_warm_s: float | None = Field(default=None, allow_inf_nan=False)

    def scale(self) -> Scale:
        """Return it as the core has it."""
        return Scale(max_workers=self.max, keep_warm_ms=_ms(self.keep_warm_s))


class _Model(_Default):
    min: int = 0

    def scale(self) -> Scale:
        """Return it as the core has it."""
        return Scale(min_workers=self.min, max_workers=self.max, keep_warm_ms=_ms(self.keep_warm_s))


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    default: _Default = _Default()
    models: dict[str, _Model] = Field(default_factory=dict)


def read_scales(path: Path | None) -> tuple[dict[ModelName, Scale], Scale]:
    """Return what is said of single models, and of every other one; without a file, nothing.

    Raises:
        StartFailed: The file cannot be used; the message says what to do.
    """
    if path is None:
        return {}, Scale()
    found = read_toml(path, _File, name="scales", bytes_max=limits.SCALES_FILE_BYTES_MAX)
    scales = {ModelName(model): each.scale() for model, each in found.models.items()}
    if len(scales) > limits.MODEL_SCALES_MAX:
        raise StartFailed(
            f"the scales file {path} names more than {limits.MODEL_SCALES_MAX} models"
        )
    otherwise = found.default.scale()
    for model, scale in (*scales.items(), ("default", otherwise)):
        if not 1 <= len(model.encode()) <= limits.ID_BYTES_MAX:
            message = f"a model's name is 1 to {limits.ID_BYTES_MAX} bytes"
            raise StartFailed(f"the scales file {path}: {message}")
        fault = scale.fault()
        if fault is not None:
            raise StartFailed(f"the scales file {path}: {model}: {fault.message}")
    return scales, otherwise


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1_000)
