"""Settings come from where the operator put them, and a misspelt key is found at start."""

from pathlib import Path

import pytest
from beeyard_runtime.config import ConfigInvalid, ServiceSettings, load
from pydantic import Field, SecretStr, field_validator


class QueenLike(ServiceSettings):
    listen: str = "127.0.0.1:7700"
    slots: int = Field(default=4, ge=1)
    models: dict[str, str] = Field(default_factory=dict)
    token: SecretStr | None = None

    @field_validator("token")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value and len(value.get_secret_value()) < 8:
            raise ValueError(f"{value.get_secret_value()} is too short")
        return value


class NeedsStore(ServiceSettings):
    store: str


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BEEYARD_CONFIG", raising=False)


def _write(text: str) -> None:
    Path("beeyard.toml").write_text(text, encoding="utf-8")


def _refusal(**overrides: object) -> str:
    with pytest.raises(ConfigInvalid) as caught:
        load(QueenLike, "queen", overrides=overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_defaults_need_no_file() -> None:
    settings = load(QueenLike, "queen", overrides={})
    assert (settings.listen, settings.log_level, settings.otlp_endpoint) == (
        "127.0.0.1:7700",
        "info",
        None,
    )


def test_the_command_line_beats_the_environment_beats_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _write('[queen]\nlisten = "file"\nslots = 2\nlog_level = "error"\n[worker]\nthreads = 1\n')
    monkeypatch.setenv("BEEYARD_QUEEN_LISTEN", "env")
    monkeypatch.setenv("BEEYARD_QUEEN_SLOTS", "3")
    settings = load(QueenLike, "queen", overrides={"listen": "flag", "slots": None})
    assert (settings.listen, settings.slots, settings.log_level) == ("flag", 3, "error")


def test_the_class_method_is_the_same() -> None:
    assert QueenLike.load("queen", overrides={"slots": 9}).slots == 9
    assert QueenLike.load("queen").slots == 4


def test_a_table_in_the_environment_is_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEEYARD_QUEEN_MODELS", '{"tiny": "synthetic:100"}')
    assert load(QueenLike, "queen", overrides={}).models == {"tiny": "synthetic:100"}
    monkeypatch.setenv("BEEYARD_QUEEN_MODELS", "{tiny}")
    assert _refusal() == "environment variable BEEYARD_QUEEN_MODELS is not valid JSON"


def test_other_roles_variables_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEEYARD_QUEEN", "127.0.0.1:7700")
    monkeypatch.setenv("BEEYARD_WORKER_NO_SUCH_KEY", "1")
    monkeypatch.setenv("LISTEN", "0.0.0.0:1")
    assert load(QueenLike, "queen", overrides={}).listen == "127.0.0.1:7700"


def test_an_unknown_key_of_the_file_is_named_with_the_nearest_known_one() -> None:
    _write("[queen]\nslotz = 1\n")
    assert _refusal() == "beeyard.toml [queen]: unknown key slotz; did you mean slots?"


def test_an_unknown_section_of_the_file_is_named() -> None:
    _write("[qeen]\nslots = 1\n")
    assert _refusal() == "beeyard.toml: unknown section [qeen]; did you mean queen?"


def test_an_unknown_variable_is_named_with_the_nearest_known_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BEEYARD_QUEEN_LISTN", "x")
    assert _refusal() == (
        "unknown environment variable BEEYARD_QUEEN_LISTN; did you mean BEEYARD_QUEEN_LISTEN?"
    )


def test_an_unknown_override_is_named() -> None:
    assert _refusal(zzz=1) == "command line: unknown key zzz"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[queen\n", "beeyard.toml is not valid TOML"),
        ("queen = 3\n", "beeyard.toml: queen must be a table [queen]"),
        ("[queen]\nslots = 0\n", "beeyard.toml [queen]: slots: Input should be greater than"),
        ("[queen]\nlog_level = 'loud'\n", "beeyard.toml [queen]: log_level: Input should be"),
    ],
)
def test_a_wrong_file_is_one_line(text: str, message: str) -> None:
    _write(text)
    assert _refusal().startswith(message)


def test_a_wrong_value_names_where_it_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEEYARD_QUEEN_SLOTS", "many")
    assert _refusal().startswith("environment BEEYARD_QUEEN_SLOTS: slots: ")
    assert _refusal(slots=0).startswith("command line --slots: slots: ")


def test_a_named_file_must_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BEEYARD_CONFIG", str(tmp_path / "gone.toml"))
    assert "gone.toml, which does not exist" in _refusal()
    monkeypatch.setenv("BEEYARD_CONFIG", str(tmp_path))
    assert "cannot be read" in _refusal()


def test_a_secret_is_never_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEEYARD_QUEEN_TOKEN", "hunter2")
    message = _refusal()
    assert message == "environment BEEYARD_QUEEN_TOKEN: token is not a valid secret"
    monkeypatch.setenv("BEEYARD_QUEEN_TOKEN", "hunter2-hunter2")
    settings = load(QueenLike, "queen", overrides={})
    assert "hunter2" not in f"{settings!r} {settings}"
    assert settings.token is not None
    assert settings.token.get_secret_value() == "hunter2-hunter2"


def test_what_is_missing_is_named_with_how_to_set_it() -> None:
    with pytest.raises(
        ConfigInvalid, match=r"store must be set \(--store or BEEYARD_QUEEN_STORE\)"
    ):
        load(NeedsStore, "queen", overrides={})
