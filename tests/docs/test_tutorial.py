"""Every command of docs/tutorial.md, in the page's order, typed into one shell beside a real stack.

What the page shows must be what comes, but for what differs from run to run: numbers, ids, the host's name, the length
of drawn bars. `...` on the page stands for anything. Two things differ from what a reader does: the stack takes free
ports, so the page's addresses are read as those, and it runs in the background, since there is one terminal.
"""

import asyncio
import os
import pty
import re
import signal
import socket
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.style import repository
from tests.support.service import MARK, clear

PAGE = repository.text_of("docs/tutorial.md")
#: A file that the page has the reader write, or a console.
BLOCK = re.compile(r"(?:`([\w.]+)`:\n\n)?^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
HOST_SHOWN = "laptop"
#: Durations, bars, and whatever holds a digit: numbers and ids.
VARIABLE = re.compile(r"[\d.]+ m?s\b|[█|]+|[0-9a-f]*\d[0-9a-f]*")
#: For one command, on a machine that does much else.
PATIENCE_S = 240

#: What asks a policy that has so many milliseconds, which a loaded machine may not give it: then the platform policy
#: decides, and that is told. It changes nothing, so it can be asked again.
ASKS_A_POLICY = ("beeyard infer", "beeyard policy try")
TRIES = 3


def shape_of(shown: str) -> re.Pattern[str]:
    """Return what matches each output that has the shape of what the page shows."""

    def vary(found: re.Match[str]) -> str:
        text = found[0]
        if text.endswith("s"):
            return r"[\d.]+ m?s"
        return r"[█|]+" if text[0] in "█|" else "[0-9a-f]+"

    def line(text: str) -> str:
        if text == "...":
            return r"(?:.*\n)*?"
        parts = []
        at = 0
        for found in VARIABLE.finditer(text):
            parts += [fixed(text[at : found.start()]), vary(found)]
            at = found.end()
        return "".join([*parts, fixed(text[at:])]) + r"\s*?\n"

    def fixed(text: str) -> str:
        words = re.split(r"(\s+|\.\.\.)", text)
        kinds = {"...": ".*"}
        return "".join(
            kinds.get(one, r"\s+" if one.isspace() else re.escape(one)) for one in words if one
        )

    return re.compile("".join(map(line, shown.splitlines())) + r"\s*")


class Shell:
    """One bash, into which the commands are typed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        """Take a bash that was started with pipes."""
        self._process = process

    async def run(self, command: str) -> str:
        """Return what a command printed, both ways; fail if it fails."""
        mark = uuid.uuid4().hex
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # Within braces it changes this shell, and cannot read what is typed next.
        typed = f"{{ {command}\n}} </dev/null\necho {mark} $?\n"
        self._process.stdin.write(typed.encode())
        lines: list[str] = []
        try:
            async with asyncio.timeout(PATIENCE_S):
                async for raw in self._process.stdout:
                    before, found, code = raw.decode().partition(mark)
                    lines.append(before)
                    if found:
                        assert code.strip() == "0", f"$ {command}\n{''.join(lines)}"
                        break
        except TimeoutError:
            raise AssertionError(f"$ {command}\ndoes not end:\n{''.join(lines)}") from None
        return "".join(lines)


@asynccontextmanager
async def shell(environment: Mapping[str, str]) -> AsyncIterator[Shell]:
    """Offer a shell in the root of the project."""
    process = await asyncio.create_subprocess_exec(
        "bash",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=repository.ROOT,
        env=environment,
    )
    try:
        yield Shell(process)
    finally:
        # What it still runs after a failure bears the mark, and is cleared away by it.
        process.kill()
        await process.wait()


class Yard:
    """What `beeyard up` becomes in the first terminal, while the second goes on."""

    def __init__(self, first: Shell, second: Shell) -> None:
        """Nothing runs yet."""
        self._first = first
        self._second = second
        self.addresses: dict[str, str] = {}
        self._pid = 0

    async def up(self, command: str) -> str:
        """Run it on free ports; return what it said once it is ready."""
        here = await self._second.run('echo "cd $PWD; export PATH=$PATH"')
        await self._first.run(here)
        typed = f"{command} --queen-port 0 >up.txt 2>&1 & echo $!"
        self._pid = int(await self._first.run(typed))
        # Until it says how to stop it, or has ended.
        waits = f"until grep -q ^stop up.txt || ! kill -0 {self._pid}; do sleep 0.1; done"
        told = await self._first.run(f"{waits}; cat up.txt")
        self.addresses = dict(
            re.findall(r"^(queen|gateway) +(?:http://)?([\d.:]+)", told, re.MULTILINE)
        )
        assert set(self.addresses) == {"queen", "gateway"}, told
        await self._second.run(f"export BEEYARD_QUEEN={self.addresses['queen']}")
        # The page shows the command for the port that everybody has.
        return told.replace(f" --queen {self.addresses['queen']}", "")

    def here(self, text: str) -> str:
        """Return a text of the page with this yard's gateway in it."""
        return text.replace("127.0.0.1:7780", self.addresses.get("gateway", "127.0.0.1:7780"))

    async def down(self) -> str:
        """Press Ctrl-C; return what it left unsaid until then."""
        os.kill(self._pid, signal.SIGINT)
        return await self._first.run(f"wait {self._pid}")


async def watched(command: str, environment: Mapping[str, str], until: str) -> int:
    """Run a command that needs a terminal, press `q` once it shows something, and return its exit code."""
    ours, theirs = pty.openpty()
    try:
        process = await asyncio.create_subprocess_shell(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
        )
        shown = b""
        async with asyncio.timeout(PATIENCE_S):
            while until.encode() not in shown:
                shown += await asyncio.to_thread(os.read, ours, 4096)
        os.write(ours, b"q")
        reading = asyncio.create_task(asyncio.to_thread(drain, ours))
        async with asyncio.timeout(PATIENCE_S):
            code = await process.wait()
        os.close(theirs)
        theirs = -1
        await reading
        return code
    finally:
        for one in {ours, theirs} - {-1}:
            os.close(one)


def drain(terminal: int) -> None:
    """Read a terminal to its end, so that nobody waits for room in it."""
    try:
        while os.read(terminal, 4096):
            pass
    except OSError:
        return  # nobody has its other end any more


def environment_of(folder: Path, mark: str) -> dict[str, str]:
    """Return what every process of the tour inherits: nothing of Beeyard's, and a mark to find it by."""
    # Nor of the `make` that runs the tests: the page has one of its own.
    others = ("BEEYARD_", "OTEL_", "MAKE")
    mine = {k: v for k, v in os.environ.items() if not k.startswith(others)}
    return mine | {MARK: mark, "TMPDIR": str(folder), "TERM": "xterm-256color"}


@pytest.mark.slow
# Two dozen processes one after the other, each with a second of processor time or more.
@pytest.mark.timeout(1_800)
async def test_the_tour_goes_as_the_page_says(tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    environment = environment_of(tmp_path, mark)
    blocks = BLOCK.findall(PAGE)
    assert sum(kind == "console" for _, kind, _ in blocks) >= 10
    differences = []
    try:
        async with shell(environment) as first, shell(environment) as terminal:
            yard = Yard(first, terminal)
            for name, kind, text in blocks:
                if name:
                    folder = Path((await terminal.run("pwd")).strip())
                    (folder / name).write_text(yard.here(text), encoding="utf-8")
                    continue
                assert kind == "console", f"a block that nobody runs: {text}"
                for command, shown in COMMAND.findall(text):
                    for _ in range(TRIES if command.startswith(ASKS_A_POLICY) else 1):
                        told = await follow(command, terminal, yard, environment)
                        if shape_of(shown).fullmatch(told):
                            break
                    else:
                        differences.append(f"$ {command}\n{told}")
            await yard.down()
        assert await clear(mark) == []
    finally:
        await clear(mark)
    assert not differences, "it is not as the page shows:\n" + "\n".join(differences)


async def follow(command: str, terminal: Shell, yard: Yard, environment: Mapping[str, str]) -> str:
    """Type one command of the page and return what came, with the host's name of the page."""
    if command.startswith("beeyard up"):
        printed = await yard.up(command)
    elif command == "beeyard top":
        printed = ""
        path = (await terminal.run("echo $PATH")).strip()
        theirs = {**environment, "PATH": path, "BEEYARD_QUEEN": yard.addresses["queen"]}
        assert await watched(command, theirs, until="workers ready") == 0
    else:
        printed = await terminal.run(yard.here(command))
    host = rf"(?<!\S){re.escape(socket.gethostname())}(?!\S)"
    return re.sub(host, HOST_SHOWN, printed)


def test_a_shape_leaves_room_for_what_differs_and_for_nothing_else() -> None:
    shape = shape_of("worker  free\n...\nw-12ab  4 of 4  took 31 ms  ███  by ...\n")
    good = "worker free \nmore\nw-9  12 of 30   took 1.2 s █ by whom\n"
    assert shape.fullmatch(good)
    for before, after in [("free", "busy"), ("of", "off"), ("took", ""), ("w-9", "w-")]:
        assert not shape.fullmatch(good.replace(before, after, 1))
    assert not shape_of("").fullmatch("something\n")
