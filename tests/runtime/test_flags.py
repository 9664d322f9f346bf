"""The command line that is made from a service's settings."""

from typing import Literal

import pytest
from beeyard_runtime.config import ServiceSettings
from beeyard_runtime.flags import parse_flags
from pydantic import Field, SecretStr


class Settings(ServiceSettings):
    """Settings of a made-up service.

    Attributes:
        slots: How many at once,
            at 100 % of one core.
        engine: What runs.
        is_kept: Whether it stays.
        model: One more model.
        password: Never on the command line.
    """

    slots: int = 3
    engine: Literal["a", "b"] = "a"
    is_kept: bool = False
    model: list[str] = Field(default_factory=list)
    password: SecretStr = SecretStr("")


def parsed(*arguments: str) -> dict[str, object]:
    return parse_flags(Settings, arguments, role="made-up", description="A service.")


def test_a_flag_that_is_not_given_sets_nothing() -> None:
    assert set(parsed().values()) == {None}


def test_each_kind_of_field_has_its_kind_of_flag() -> None:
    given = parsed("--slots=4", "--engine", "b", "--is-kept", "--model", "x", "--model", "y")
    assert (given["slots"], given["engine"]) == ("4", "b")
    assert (given["is_kept"], given["model"]) == (True, ["x", "y"])
    assert parsed("--no-is-kept")["is_kept"] is False


def test_the_help_says_what_the_documentation_says(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed("--help")
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert "How many at once, at 100 % of one core. (default 3)" in text
    assert "The least severe lines that are written." in text
    assert "BEEYARD_MADE_UP_*" in text


def test_a_secret_has_no_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed("--password=x")
    assert ended.value.code == 2
    assert "--password" in capsys.readouterr().err


def test_the_settings_judge_a_choice(capsys: pytest.CaptureFixture[str]) -> None:
    assert parsed("--engine=c")["engine"] == "c"
    with pytest.raises(SystemExit):
        parsed("--help")
    assert "--engine {a,b}" in capsys.readouterr().out
