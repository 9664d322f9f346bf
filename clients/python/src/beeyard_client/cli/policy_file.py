"""A policy's file: read, deployed, and deployed again whenever it changes.

The file is looked at a few times a second, and deployed once two looks in a row see the same text: an editor that
writes in pieces is let finish. A text that is refused changes nothing; the version that decides goes on.
"""

import getpass
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from beeyard_client import limits
from beeyard_client.cli.printing import complain, print_json, say
from beeyard_client.cli.session import FAILED, OK, USAGE, finish, report
from beeyard_client.client import BeeyardClient
from beeyard_client.errors import BeeyardError, LinkBrokenError
from beeyard_client.policy import PolicyLanguage, PolicyVersion
from beeyard_client.resume import Pauses

_YAML_SUFFIXES: Final = {".yaml", ".yml"}


@dataclass(frozen=True, slots=True)
class Deploying:
    """What is deployed, and how it is told.

    Attributes:
        file: The policy's file.
        name: Its name; empty: the one that it gives itself.
        note: What it is for.
        expected: The version that must be active; None: any.
        is_watched: Whether it is deployed again whenever the file changes.
        as_json: Whether a program reads the answer.
    """

    file: Path
    name: str
    note: str
    expected: int | None
    is_watched: bool
    as_json: bool

    @property
    def language(self) -> PolicyLanguage:
        """What the file is written in, by its name."""
        return "yaml" if self.file.suffix in _YAML_SUFFIXES else "lua"


def read_policy(file: Path) -> str:
    """Return the text of a file, or end the command with one line about why there is none."""
    try:
        with file.open("rb") as opened:
            raw = opened.read(limits.POLICY_SOURCE_BYTES_MAX + 4)
    except OSError as fault:
        complain(f"{file}: {fault.strerror}")
        finish(USAGE)
    if len(raw) > limits.POLICY_SOURCE_BYTES_MAX + 3:
        complain(f"{file} is longer than {limits.POLICY_SOURCE_BYTES_MAX} bytes; shorten it")
        finish(FAILED)
    try:
        # A byte order mark is no part of the text.
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        complain(f"{file}: byte {fault.start + 1} is not UTF-8; save the file as UTF-8")
        finish(FAILED)


async def deploy(client: BeeyardClient, wanted: Deploying, text: str) -> PolicyVersion:
    """Deploy a text in the name of whoever is logged in here."""
    return await client.deploy_policy(
        text,
        wanted.language,
        name=wanted.name,
        note=wanted.note,
        author=_author(),
        expected_active_version=wanted.expected,
    )


async def deploy_once(client: BeeyardClient, wanted: Deploying) -> int:
    """Deploy the file and tell what came of it; return the exit code."""
    try:
        version = await deploy(client, wanted, read_policy(wanted.file))
    except BeeyardError as error:
        await _tell_refusal(client, wanted, error)
        return FAILED
    _tell(wanted, version)
    return OK


async def deploy_changes(client: BeeyardClient, wanted: Deploying, pauses: Pauses) -> int:
    """Deploy the file now and after each change, until the command is ended."""
    deployed: str | None = None
    while True:
        text = await _settled(wanted.file, deployed, pauses)
        try:
            _tell(wanted, await deploy(client, wanted, text))
            deployed = text
        except LinkBrokenError as error:
            await _tell_refusal(client, wanted, error)
            await pauses.sleep_ms(limits.RECONNECT_MAX_MS)
        except BeeyardError as error:
            await _tell_refusal(client, wanted, error)
            await _tell_what_stays(client, wanted)
            deployed = text


async def _settled(file: Path, deployed: str | None, pauses: Pauses) -> str:
    """Return the file's text once it is another one and no longer changes."""
    last = None
    while True:
        text = _text_of(file)
        if text is not None and text == last and text != deployed:
            return text
        last = text
        await pauses.sleep_ms(limits.POLICY_WATCH_INTERVAL_MS)


def _text_of(file: Path) -> str | None:
    """Return what is in the file; None while it is being replaced, or holds no text."""
    try:
        with file.open("rb") as opened:
            return opened.read(limits.POLICY_SOURCE_BYTES_MAX + 4).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None


def _tell(wanted: Deploying, version: PolicyVersion) -> None:
    if wanted.as_json:
        print_json(version, one_line=wanted.is_watched)
    else:
        say(f"{version.label} is active")


async def _tell_refusal(client: BeeyardClient, wanted: Deploying, error: BeeyardError) -> None:
    if error.reason == "POLICY_INVALID" and not wanted.as_json:
        complain(placed(wanted.file, error))
    else:
        await report(error, client, as_json=wanted.as_json, one_line=wanted.is_watched)


async def _tell_what_stays(client: BeeyardClient, wanted: Deploying) -> None:
    if wanted.as_json:
        return
    try:
        complain(f"{(await client.policy_version()).label} stays active")
    except BeeyardError:
        # It only adorns the refusal that was told already.
        return


def placed(file: Path, error: BeeyardError) -> str:
    """Return what is wrong with a file as editors follow it: file, line, column."""
    line, column = error.metadata.get("line", "0"), error.metadata.get("column", "0")
    if line == "0":
        return f"{file}: {error.message}"
    said = error.message.removeprefix(f"line {line}").removeprefix(f", column {column}")
    place = f"{file}:{line}" if column == "0" else f"{file}:{line}:{column}"
    return f"{place}{said}"


def _author(user: Callable[[], str] = getpass.getuser) -> str:
    try:
        return user()
    except (KeyError, OSError):
        return ""  # a container may run as nobody in particular
