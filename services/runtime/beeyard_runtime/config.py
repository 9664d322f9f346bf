"""Settings of a service from `beeyard.toml`, the environment and the command line; one wrong key refuses them all.

Later sources win: defaults, then the file, then `BEEYARD_<ROLE>_*`, then the command line. A key that nobody knows is
an error, since a misspelt limit that is silently ignored is found out only when it is needed.
"""

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, Self, TypeVar

from pydantic import SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from beeyard_runtime.faults import ConfigInvalid

__all__ = ["ConfigInvalid", "DialingSettings", "ServiceSettings", "load"]

CONFIG_ENV = "BEEYARD_CONFIG"
CONFIG_FILE = "beeyard.toml"
SECTIONS = ("queen", "pool_manager", "worker", "gateway", "client")


class ServiceSettings(BaseSettings):
    """What every service can be told; each service adds its own fields in a subclass.

    A secret is a field of type `SecretStr`, which no message here prints.

    Attributes:
        log_format: Lines for people, or one JSON object a line.
        log_level: The least severe lines that are written.
        otlp_endpoint: OTLP gRPC collector that traces go to; none: traces are not kept.
        tls_cert: The certificate that this process shows, with its chain, as PEM; none: it serves without TLS.
        tls_key: The private key of tls_cert, as PEM without a passphrase.
        tls_ca: Certificates of the authorities whose signatures this process believes, as PEM; none: it dials without
            TLS.
        tls_client_certs: Whether callers must show a certificate that tls_ca signed.
        tokens: The file of the tokens that callers show, made by `beeyard tokens`; none: callers are not told apart.
    """

    model_config = SettingsConfigDict(extra="forbid", hide_input_in_errors=True)

    log_format: Literal["json", "console"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    otlp_endpoint: str | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None
    tls_client_certs: Literal["ignored", "required"] = "ignored"
    tokens: Path | None = None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read nothing behind the back of `load`, which merges the sources itself and can say where a key came from."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)

    @classmethod
    def load(cls, section: str, *, overrides: Mapping[str, object] | None = None) -> Self:
        """Return the settings of one role; the same as `load(cls, section, overrides=overrides)`."""
        return load(cls, section, overrides=overrides or {})


class DialingSettings(ServiceSettings):
    """What a service that dials the queen can be told besides.

    Attributes:
        token: What it shows to those whom it dials. Not a flag: command lines are seen by everybody.
        token_file: A file with that token, read again when it changes.
    """

    token: SecretStr = SecretStr("")
    token_file: Path | None = None


SettingsT = TypeVar("SettingsT", bound=ServiceSettings)


def load(cls: type[SettingsT], section: str, *, overrides: Mapping[str, object]) -> SettingsT:
    """Return the settings of one role from all sources.

    Args:
        cls: The role's settings.
        section: The table of the file, such as `pool_manager`; the environment's prefix follows from it.
        overrides: Values given on the command line; a None means that the flag was not given.

    Raises:
        ConfigInvalid: A key is unknown or a value is wrong; the message is one line that names it.
    """
    path, required = _config_path()
    from_file = _read_section(path, section, required=required)
    _refuse_unknown(cls, from_file, origin=f"{path} [{section}]")
    prefix = f"BEEYARD_{section.upper()}_"
    from_env = _read_env(cls, prefix)
    given = {key: value for key, value in overrides.items() if value is not None}
    _refuse_unknown(cls, given, origin="command line")
    origins = (
        dict.fromkeys(from_file, f"{path} [{section}]")
        | {key: f"environment {prefix}{key.upper()}" for key in from_env}
        | {key: f"command line --{key.replace('_', '-')}" for key in given}
    )
    try:
        return cls(**{**from_file, **from_env, **given})  # type: ignore[arg-type]  # validated by pydantic
    except ValidationError as fault:
        raise ConfigInvalid(_first_error(cls, section, fault, origins)) from None


def _config_path() -> tuple[Path, bool]:
    named = os.environ.get(CONFIG_ENV)
    return (Path(named), True) if named else (Path(CONFIG_FILE), False)


def _read_section(path: Path, section: str, *, required: bool) -> dict[str, object]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if required:
            raise ConfigInvalid(f"{CONFIG_ENV} names {path}, which does not exist") from None
        return {}
    except OSError as fault:
        raise ConfigInvalid(f"{path} cannot be read: {fault.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
        raise ConfigInvalid(f"{path} is not valid TOML: {fault}") from None
    for name in tables:
        if name not in SECTIONS:
            raise ConfigInvalid(f"{path}: unknown section [{name}]{_nearest(name, SECTIONS)}")
    table = tables.get(section, {})
    if not isinstance(table, dict):
        raise ConfigInvalid(f"{path}: {section} must be a table [{section}]")
    return table


def _read_env(cls: type[ServiceSettings], prefix: str) -> dict[str, object]:
    known = [prefix + field.upper() for field in cls.model_fields]
    for name in sorted(os.environ):
        if name.startswith(prefix) and name not in known:
            raise ConfigInvalid(f"unknown environment variable {name}{_nearest(name, known)}")
    try:
        return dict(EnvSettingsSource(cls, env_prefix=prefix)())
    except SettingsError as fault:
        field = next((name for name in cls.model_fields if f'"{name}"' in str(fault)), "")
        raise ConfigInvalid(
            f"environment variable {prefix}{field.upper()} is not valid JSON"
        ) from None


def _refuse_unknown(cls: type[ServiceSettings], given: Iterable[str], *, origin: str) -> None:
    for key in given:
        if key not in cls.model_fields:
            raise ConfigInvalid(f"{origin}: unknown key {key}{_nearest(key, cls.model_fields)}")


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _first_error(
    cls: type[ServiceSettings], section: str, fault: ValidationError, origins: Mapping[str, str]
) -> str:
    error = fault.errors(include_input=False, include_url=False, include_context=False)[0]
    key = str(error["loc"][0]) if error["loc"] else ""
    if not key:
        return f"{section}: {error['msg']}"
    where = origins.get(key, section)
    path = ".".join(str(part) for part in error["loc"])
    field = cls.model_fields.get(key)
    if field is not None and "SecretStr" in str(field.annotation):
        # A validator's message may quote the value.
        return f"{where}: {path} is not a valid secret"
    if error["type"] == "missing":
        return f"{section}: {path} must be set (--{key.replace('_', '-')} or BEEYARD_{section.upper()}_{key.upper()})"
    return f"{where}: {path}: {error['msg']}"
