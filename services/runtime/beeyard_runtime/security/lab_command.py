"""`python -m beeyard_runtime.security lab`: everything that the stack of `beeyard up --secure` shows, in one folder.

An authority, a certificate for each process and one for people, tokens for the gateway and for people. What is there
and good is kept, so that those who have a copy keep getting in; a certificate that ends soon is made anew.
"""

import argparse
import datetime as dt
import json
import sys
from pathlib import Path
from typing import Final

from beeyard_core import limits

from beeyard_runtime.faults import StartFailed
from beeyard_runtime.security.callers import Role
from beeyard_runtime.security.certificates import (
    AUTHORITY_DAYS,
    CERT_DAYS,
    PeerName,
    ends_of,
    issue,
    issued_to,
    make_authority,
)
from beeyard_runtime.security.private_file import replace
from beeyard_runtime.security.token_file import TokenRecord, draw_token
from beeyard_runtime.security.tokens_command import keep_token

_CERT_MODE: Final = 0o644
_SOON: Final = dt.timedelta(milliseconds=limits.CERT_WARNING_MS)
#: Who shows a certificate; the pool's says which pool it is.
_PROCESSES: Final = ("queen", "pool", "gateway", "me")
#: Whoever started the stack may do everything on it.
_TOKENS: Final = {"me": frozenset({Role.ADMIN}), "gateway": frozenset({Role.OPERATOR})}


def main(arguments: list[str], now: dt.datetime) -> int:
    """Make what is missing at the moment `now`; return the exit code: 0, or 1 if it cannot be done."""
    parser = argparse.ArgumentParser(prog="beeyard lab", allow_abbrev=False)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--pool", required=True, help="the id of the host")
    options = parser.parse_args(arguments)
    try:
        made = furnish(options.dir, options.pool, now)
    except (StartFailed, ValueError) as fault:
        sys.stderr.write(f"{fault}\n")
        return 1
    except OSError as fault:
        sys.stderr.write(f"{fault.filename}: {fault.strerror}\n")
        return 1
    sys.stdout.write(json.dumps({"made": made}) + "\n")
    return 0


def furnish(folder: Path, pool_id: str, now: dt.datetime) -> list[str]:
    """See that everything is in the folder and good; return the names of what was made.

    Raises:
        StartFailed: The tokens file cannot be used.
        ValueError: The authority cannot be used.
        OSError: A file cannot be written.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = []
    if not (_is_good(folder / "ca.pem", now) and (folder / "ca.key").exists()):
        authority = make_authority("Beeyard on this machine", days=AUTHORITY_DAYS, now=now)
        replace(folder / "ca.key", authority.key)
        replace(folder / "ca.pem", authority.cert, mode=_CERT_MODE)
        made.append("ca")
    for name in _PROCESSES:
        peer = PeerName(pool_id) if name == "pool" else None
        if "ca" in made or not _serves(folder, name, peer, now):
            signer = (folder / "ca.pem").read_bytes(), (folder / "ca.key").read_bytes()
            one = issue(signer, name, peer=peer, days=CERT_DAYS, now=now)
            replace(folder / f"{name}.key", one.key)
            replace(folder / f"{name}.pem", one.cert, mode=_CERT_MODE)
            made.append(name)
    made += [f"{name}.token" for name in _TOKENS if _see_token(folder, name, now)]
    return made


def _is_good(cert: Path, now: dt.datetime) -> bool:
    if not cert.exists():
        return False
    try:
        return ends_of(cert.read_bytes()) - now > _SOON
    except ValueError:
        raise ValueError(
            f"{cert} holds no certificate in PEM; remove it to have another made"
        ) from None


def _serves(folder: Path, name: str, peer: PeerName | None, now: dt.datetime) -> bool:
    cert = folder / f"{name}.pem"
    if not ((folder / f"{name}.key").exists() and _is_good(cert, now)):
        return False
    return issued_to(cert.read_bytes())[1] == peer


def _see_token(folder: Path, name: str, now: dt.datetime) -> bool:
    """Make a token if there is none; return whether one was made. One that was revoked stays so."""
    shown, tokens = folder / f"{name}.token", folder / "tokens.json"
    if shown.exists() and tokens.exists():
        return False
    token, token_id, digest = draw_token()
    record = TokenRecord(
        token_id=token_id,
        name=f"{name}-{token_id}",
        digest=digest,
        roles=_TOKENS[name],
        created=now,
    )
    shown.unlink(missing_ok=True)
    keep_token(tokens, record, now, token, shown)
    return True
