"""`python -m beeyard_runtime.security inspect`: what is wrong with the certificates, keys and tokens of this machine.

Looked at are the files that are named on the command line, by the configuration or by the environment, and those that
`beeyard certs`, `beeyard tokens` and `beeyard up --secure` make where nobody names another place.
"""

import argparse
import datetime as dt
import json
import os
import stat
import sys
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Final

from beeyard_core import limits

from beeyard_runtime.config import CONFIG_ENV, CONFIG_FILE, SECTIONS
from beeyard_runtime.finding import Finding
from beeyard_runtime.security.certificates import ends_of, is_authority

_SOON: Final = dt.timedelta(milliseconds=limits.CERT_WARNING_MS)
#: Settings that name files, and what kind of file it is.
_SETTINGS: Final = {
    "tls_cert": "certificate",
    "tls_ca": "certificate",
    "tls_key": "secret",
    "token_file": "secret",
    "tokens": "tokens",
}
_SUFFIXES: Final = {".pem": "certificate", ".key": "secret", ".token": "secret"}


def main(arguments: list[str], now: dt.datetime) -> int:
    """Print what is found at the moment `now` as JSON; return 0."""
    parser = argparse.ArgumentParser(prog="beeyard inspect", allow_abbrev=False)
    parser.add_argument("--dir", type=Path, action="append", default=[])
    parser.add_argument("files", type=Path, nargs="*")
    options = parser.parse_args(arguments)
    kinds = {path: _SUFFIXES.get(path.suffix, "certificate") for path in options.files}
    for folder in (Path("certs"), *options.dir):
        kinds |= dict(_in_folder(folder))
    kinds |= {Path(name): kind for name, kind in _named() if name}
    if Path("tokens.json").exists():
        kinds[Path("tokens.json")] = "tokens"
    found = [_look(path, kind, now) for path, kind in sorted(kinds.items())]
    sys.stdout.write(json.dumps([asdict(one) for one in found]) + "\n")
    return 0


def _in_folder(folder: Path) -> Iterator[tuple[Path, str]]:
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir())[: limits.TOKENS_MAX]:
        if path.suffix in _SUFFIXES:
            yield path, _SUFFIXES[path.suffix]
        elif path.name == "tokens.json":
            yield path, "tokens"


def _named() -> Iterator[tuple[str, str]]:
    """Yield what the configuration and the environment name; what is wrong with those, services say themselves."""
    tables: dict[str, object] = {}
    with suppress(OSError, ValueError):
        tables = tomllib.loads(Path(os.environ.get(CONFIG_ENV, CONFIG_FILE)).read_text("utf-8"))
    for section in SECTIONS:
        table = tables.get(section)
        for setting, kind in _SETTINGS.items():
            value = table.get(setting) if isinstance(table, dict) else None
            yield str(os.environ.get(f"BEEYARD_{section}_{setting}".upper(), value or "")), kind


def _look(path: Path, kind: str, now: dt.datetime) -> Finding:
    name = path.name
    try:
        mode = path.stat().st_mode
        if kind == "certificate":
            return _certificate(path, now)
    except OSError as fault:
        return Finding(name, "fail", f"{path}: {fault.strerror}", "mend the path, or make the file")
    except ValueError:
        return Finding(name, "fail", f"{path} holds no certificate in PEM", "issue another")
    if kind == "secret" and mode & stat.S_IRWXO:
        return Finding(name, "fail", f"{path} can be read by everybody here", f"chmod 600 {path}")
    if kind == "tokens" and mode & (stat.S_IWGRP | stat.S_IWOTH):
        message = f"{path} can be written by others, who could make tokens"
        return Finding(name, "fail", message, f"chmod 600 {path}")
    return Finding(name, "ok", f"{path} is for its owner")


def _certificate(path: Path, now: dt.datetime) -> Finding:
    content = path.read_bytes()
    ends = ends_of(content)
    until = f"{ends:%Y-%m-%d}"
    advice = f"beeyard certs renew {path.stem} --dir {path.parent}"
    if is_authority(content):
        advice = "make a new authority in another folder: docs/security.md says in which order it is taken up"
    if ends <= now:
        return Finding(path.name, "fail", f"{path} expired on {until}", advice)
    if ends - now < _SOON:
        days = (ends - now).days
        return Finding(path.name, "warn", f"{path} expires in {days} days, on {until}", advice)
    return Finding(path.name, "ok", f"{path} is good until {until}")
