"""Settings choose an engine, or say what is wrong with them."""

import pathlib

import pytest
from beeyard_core.refusal import Refusal
from beeyard_runtime.clock import SystemClock
from beeyard_worker.engine.port import EngineFault
from beeyard_worker.engine.registry import EngineSettings, build_engine


@pytest.mark.parametrize(
    ("engine", "source", "reason"),
    [
        ("abacus", "", Refusal.INVALID_REQUEST),
        ("synthetic", "fast", Refusal.INVALID_REQUEST),
        ("synthetic", "-1", Refusal.INVALID_REQUEST),
        ("synthetic", "50,load=", Refusal.INVALID_REQUEST),
        ("synthetic", "50,load=-1", Refusal.INVALID_REQUEST),
        ("synthetic", "50,load=99999", Refusal.INVALID_REQUEST),
        ("llamacpp", "package:unheard-of", Refusal.MODEL_LOAD_FAILED),
    ],
)
def test_what_is_no_engine_is_refused(
    tmp_path: pathlib.Path, engine: str, source: str, reason: Refusal
) -> None:
    settings = EngineSettings(engine=engine, source=source, package_cache=tmp_path)
    with pytest.raises(EngineFault) as fault:
        build_engine(settings, SystemClock())
    assert fault.value.reason is reason


@pytest.mark.parametrize("source", ["50", "50,load=0.001"])
async def test_a_synthetic_engine_takes_its_rate_as_source(
    tmp_path: pathlib.Path, source: str
) -> None:
    settings = EngineSettings(engine="synthetic", source=source, slots=3, package_cache=tmp_path)
    facts = await build_engine(settings, SystemClock()).load(lambda _: None)
    assert (facts.engine, facts.slots) == ("synthetic", 3)
