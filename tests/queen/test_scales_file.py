"""The scales file, and how it goes with what the command line says."""

from pathlib import Path

import pytest
from beeyard_core import limits
from beeyard_core.ids import ModelName
from beeyard_core.scaling import Eviction, Scale
from beeyard_queen.config import QueenSettings
from beeyard_queen.scales_file import read_scales
from beeyard_runtime.faults import StartFailed

WHOLE = """
[default]
keep_warm_s = 600

[models.small]
min = 1
max = 4
keep_warm_s = 0.5

[models."big/model"]
max = 1
"""


def written(path: Path, text: str) -> Path:
    file = path / "scales.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_file_says_how_many_workers_each_model_has(tmp_path: Path) -> None:
    scales, otherwise = read_scales(written(tmp_path, WHOLE))
    assert scales == {
        "small": Scale(min_workers=1, max_workers=4, keep_warm_ms=500),
        "big/model": Scale(max_workers=1),
    }
    assert otherwise == Scale(keep_warm_ms=600_000)


def test_without_a_file_nothing_is_said() -> None:
    assert read_scales(None) == ({}, Scale())


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[models.m]\nmin = 3\nmax = 2", "m: max_workers must not be less than min_workers"),
        ("[models.m]\nmin = -1", "m: min_workers must be 0 to"),
        ("[models.m]\nmax = 0", "m: max_workers must be 1 to"),
        ("[default]\nkeep_warm_s = -1", "default: keep_warm_ms must be 0 to"),
        ("[default]\nkeep_warm_s = inf", "default.keep_warm_s"),
        ("[default]\nmin = 1", "default.min"),
        ("[models.m]\nmaximum = 2", "models.m.maximum"),
        ("[models.m]\nmin = '1'", "models.m.min"),
        ("[models.'']\nmin = 1", "a model's name is 1 to"),
        ("[models", "is not valid TOML"),
        ("#" * (limits.SCALES_FILE_BYTES_MAX + 1), "is larger than"),
        (
            "\n".join(f"[models.m{n}]\nmin = 1" for n in range(limits.MODEL_SCALES_MAX + 1)),
            "names more than",
        ),
    ],
)
def test_a_wrong_file_is_said_in_one_line(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(StartFailed) as raised:
        read_scales(written(tmp_path, text))
    assert fault in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match="name another with --scales"):
        read_scales(tmp_path / "none.toml")


def test_the_command_line_adds_to_the_file(tmp_path: Path) -> None:
    settings = QueenSettings(
        scales=written(tmp_path, WHOLE),
        keep=["small=3", "other"],
        keep_warm_s=5,
        residence_s=1.5,
        eviction="lfu",
    ).scaling()
    # The file's default goes before the flag, the greater least before the smaller.
    assert settings.otherwise == Scale(keep_warm_ms=600_000)
    assert settings.by_model[ModelName("small")].min_workers == 3
    assert settings.by_model[ModelName("other")] == Scale(min_workers=1, keep_warm_ms=600_000)
    assert (settings.residence_ms, settings.eviction) == (1_500, Eviction.LFU)
    assert dict(settings.policy_values()) == {"eviction": "lfu", "residence_ms": 1_500.0}


def test_more_is_not_kept_than_a_model_may_have(tmp_path: Path) -> None:
    settings = QueenSettings(scales=written(tmp_path, WHOLE), keep=["small=5"])
    with pytest.raises(StartFailed, match="--keep small=5: max_workers"):
        settings.scaling()


def test_keep_warm_alone_holds_for_every_model() -> None:
    assert QueenSettings(keep_warm_s=0).scaling().otherwise == Scale(keep_warm_ms=0)
