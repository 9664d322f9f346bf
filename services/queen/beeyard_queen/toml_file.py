"""Reads a TOML file that an operator wrote for the queen, or says in one line why it cannot be used."""

import tomllib
from pathlib import Path
from typing import TypeVar

from beeyard_runtime.faults import StartFailed
from pydantic import BaseModel, ValidationError

ModelT = TypeVar("ModelT", bound=BaseModel)


def read_toml(path: Path, model: type[ModelT], *, name: str, bytes_max: int) -> ModelT:
    """Return what is in a file.

    Args:
        path: The file.
        model: What it must hold; unknown keys are errors if the model says so.
        name: What the file is called, and the flag that names it: `tenants` for --tenants.
        bytes_max: A larger file is none that somebody wrote.

    Raises:
        StartFailed: It cannot be read, is too large, no TOML, or does not hold that; one line that says what to do.
    """
    try:
        if path.stat().st_size > bytes_max:
            raise StartFailed(f"the {name} file {path} is larger than {bytes_max} bytes")
        return model.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as fault:
        raise StartFailed(
            f"the {name} file {path} cannot be read ({fault.strerror}); name another with --{name}"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
        raise StartFailed(f"the {name} file {path} is not valid TOML: {fault}") from None
    except ValidationError as fault:
        error = fault.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in error["loc"])
        raise StartFailed(f"the {name} file {path}: {where}: {error['msg']}") from None
