"""`beeyard tokens create|list|revoke`: who may call, kept in a file that services read."""

import argparse
import datetime as dt
import fcntl
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from beeyard_runtime.clock import SystemClock
from beeyard_runtime.faults import StartFailed
from beeyard_runtime.security.audit import AuditTrail, Entry
from beeyard_runtime.security.callers import Caller, Role
from beeyard_runtime.security.private_file import replace, write_new
from beeyard_runtime.security.token_file import TokenRecord, TokensFile, draw_token, read_tokens

_DAYS_MAX: Final = 36_500
_COLUMNS: Final = ("id", "name", "roles", "bound to", "expires", "state")


def main(arguments: list[str], now: dt.datetime) -> int:
    """Run the command at the moment `now`; return the exit code: 0, 1 if it cannot be done, 2 for a wrong call."""
    options = _parser().parse_args(arguments)
    try:
        return {"create": _create, "list": _list, "revoke": _revoke}[options.command](options, now)
    except StartFailed as fault:
        return _complain(str(fault))
    except OSError as fault:
        return _complain(f"{fault.filename}: {fault.strerror}")
    except ValidationError as fault:
        error = fault.errors(include_input=False, include_url=False, include_context=False)[0]
        return _complain(error["msg"].removeprefix("Value error, "))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="beeyard tokens",
        description="Who may call. The file has no secrets in it and may be copied to other hosts; a token is shown "
        "once, when it is made.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    create = commands.add_parser("create", help="make a token and print it")
    create.add_argument("name", metavar="NAME", help="whose it is")
    roles = [role.value for role in Role]
    create.add_argument(
        "--role", action="append", choices=roles, required=True, help="what it may; repeatable"
    )
    create.add_argument("--tenant", default="", help="for whom a client speaks, a worker works")
    create.add_argument("--pool", default="", help="which pool it is, or belongs to")
    create.add_argument("--worker", default="", help="the only worker of that pool that it may be")
    create.add_argument("--days", type=_days, help="how long it counts (default: until revoked)")
    create.add_argument(
        "--requests-per-second", type=float, help="calls that it may begin (default: any)"
    )
    create.add_argument(
        "--out", type=Path, help="write the token there, for its owner only, instead of printing it"
    )
    commands.add_parser("list", help="show every token that was made, without secrets")
    revoke = commands.add_parser("revoke", help="make a token count no more, within a second")
    revoke.add_argument("token", metavar="NAME|ID", help="its name, or its id from the list")
    for command in commands.choices.values():
        command.add_argument(
            "--file",
            type=Path,
            default=Path("tokens.json"),
            help="where they are kept (default: %(default)s)",
        )
        command.add_argument("--json", action="store_true", help="answer in JSON")
    return parser


def _create(options: argparse.Namespace, now: dt.datetime) -> int:
    token, token_id, digest = draw_token()
    record = TokenRecord(
        token_id=token_id,
        name=options.name,
        digest=digest,
        roles=frozenset(Role(role) for role in options.role),
        tenant_id=options.tenant,
        pool_id=options.pool,
        worker_id=options.worker,
        created=now,
        expires=now + dt.timedelta(days=options.days) if options.days else None,
        requests_per_second=options.requests_per_second,
    )
    keep_token(options.file, record, now, token, options.out)
    shown = {} if options.out else {"token": token}
    if options.json:
        _print(json.dumps({**shown, **_shown(record, now)}))
    else:
        _print(f"made {token_id}, {record.name}" if options.out else token)
    return 0


def keep_token(
    file: Path, record: TokenRecord, now: dt.datetime, token: str, out: Path | None
) -> None:
    """Add a token to a file, which is made if there is none, and write the token itself to `out`, if that is named.

    Raises:
        StartFailed: The name is taken, or the file cannot be used.
        OSError: A file cannot be written.
    """
    with _held(file):
        every = _read(file)
        if any(one.name == record.name and _counts(one, now) for one in every):
            raise StartFailed(
                f"{record.name} has a token already; revoke it first, or choose another name"
            )
        if out:
            write_new(out, token.encode() + b"\n")
        _write(file, [*every, record])
    _audit(file, "tokens.create", record)


def _list(options: argparse.Namespace, now: dt.datetime) -> int:
    every = [_shown(one, now) for one in read_tokens(options.file).tokens]
    if options.json:
        _print(json.dumps({"tokens": every}))
        return 0
    rows = [_COLUMNS, *(tuple(_row(one)) for one in every)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(_COLUMNS))]
    for row in rows:
        _print(
            "  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip()
        )
    return 0


def _revoke(options: argparse.Namespace, now: dt.datetime) -> int:
    with _held(options.file):
        every = read_tokens(options.file).tokens
        good = [one for one in every if _counts(one, now)]
        chosen = [one for one in good if options.token in (one.name, one.token_id)]
        if not chosen:
            return _complain(
                f"no token that counts is called {options.token}; see beeyard tokens list"
            )
        gone = chosen[0].model_copy(update={"revoked": now})
        _write(options.file, [gone if one is chosen[0] else one for one in every])
    _audit(options.file, "tokens.revoke", gone)
    if options.json:
        _print(json.dumps(_shown(gone, now)))
    else:
        _print(f"revoked {gone.token_id}, {gone.name}")
    return 0


def _shown(record: TokenRecord, now: dt.datetime) -> dict[str, object]:
    """Return what anybody may see of a token."""
    told = record.model_dump(mode="json", exclude={"digest", "roles"}, exclude_defaults=True)
    roles = sorted(record.roles)
    state = "revoked" if record.revoked else "good" if _counts(record, now) else "expired"
    return {**told, "roles": roles, "state": state}


def _row(shown: dict[str, object]) -> Iterator[str]:
    bound = (str(shown.get(key, "")) for key in ("tenant_id", "pool_id", "worker_id"))
    yield str(shown["token_id"])
    yield str(shown["name"])
    yield ",".join(map(str, shown["roles"])) if isinstance(shown["roles"], list) else ""
    yield "/".join(one for one in bound if one) or "-"
    yield str(shown.get("expires", "never"))[:10]
    yield str(shown["state"])


def _counts(record: TokenRecord, now: dt.datetime) -> bool:
    return record.is_good(int(now.timestamp() * 1_000))


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Keep other writers of the file away; the lock lies beside it, since the file itself is replaced."""
    with path.with_name(f".{path.name}.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read(path: Path) -> list[TokenRecord]:
    return read_tokens(path).tokens if path.exists() else []


def _write(path: Path, records: list[TokenRecord]) -> None:
    replace(path, TokensFile(tokens=records).model_dump_json(indent=1).encode() + b"\n")


def _audit(path: Path, action: str, record: TokenRecord) -> None:
    """Tell the trail beside the file; who did it is whoever may write there, so nobody is named."""
    trail = AuditTrail(path.with_name(path.name + ".audit.jsonl"), SystemClock())
    what = {
        "token_id": record.token_id,
        "name": record.name,
        "roles": ",".join(sorted(record.roles)),
    }
    entry = Entry(action=action, caller=Caller(), what=what, result="OK")
    trail.note_now(entry)


def _days(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text[:9]) <= _DAYS_MAX):
        raise argparse.ArgumentTypeError(f"must be 1 to {_DAYS_MAX}")
    return int(text)


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")


def _complain(message: str) -> int:
    sys.stderr.write(f"beeyard tokens: {message}\n")
    return 1
