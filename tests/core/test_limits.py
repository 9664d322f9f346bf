"""Every buffer, queue, retry and deadline is bounded, and by something."""

import importlib
import pkgutil
from types import ModuleType

import beeyard_core
import pytest

MODULES = [
    importlib.import_module(f"beeyard_core.{found.name}")
    for found in pkgutil.iter_modules(beeyard_core.__path__)
    if found.name.endswith("limits")
]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_limit_is_positive(module: ModuleType) -> None:
    numbers = {
        name: value
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, int | float)
    }
    assert numbers
    assert {name: value for name, value in numbers.items() if value <= 0} == {}
