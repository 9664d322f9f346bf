"""The queen's side of the zygote: starting it, and asking it for hosts.

The zygote is a bare interpreter started by `exec`, because the queen's own process must never fork. It is given one
stream, the trusted files and where lupa and msgpack lie, and nothing else: no environment, no other descriptor.
"""

import asyncio
import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgpack
from beeyard_core import limits
from beeyard_runtime.faults import StartFailed
from beeyard_runtime.log import get_log

from beeyard_queen.policy.lua_source import CONTEXT_FILES, lua_text
from beeyard_queen.policy.reply import unpack

_HOST_FOLDER: Final = Path(__file__).with_name("host")
_FILES: Final = (
    "allowlist.txt",
    "guard.lua",
    "library.lua",
    "border.lua",
    "state.lua",
    "platform.lua",
    "prelude.lua",
)
_log = get_log("policy")


def trusted_texts() -> dict[str, str]:
    """Return the packaged Lua files that every host begins with, by name, and the order of the context's."""
    texts = {name: lua_text(name) for name in (*_FILES, *CONTEXT_FILES)}
    return {**texts, "context": " ".join(CONTEXT_FILES)}


@dataclass(frozen=True)
class Terms:
    """What one host may use.

    Attributes:
        memory_bytes_max: The Lua heap, with the mirror in it.
        address_space_bytes: The process's memory, mapped or not.
        cpu_s: CPU time over its whole life.
    """

    memory_bytes_max: int = limits.POLICY_MEMORY_BYTES_MAX
    address_space_bytes: int = limits.POLICY_ADDRESS_SPACE_BYTES
    cpu_s: int = limits.POLICY_HOST_CPU_S

    @classmethod
    def for_queue(cls, depth: int) -> "Terms":
        """Return the terms of a host that mirrors a queue of up to so many jobs."""
        if depth > limits.POLICY_LARGE_QUEUE_JOBS:
            return cls(memory_bytes_max=limits.POLICY_MEMORY_LARGE_BYTES_MAX)
        return cls()


@dataclass(frozen=True)
class Forked:
    """A host just forked; whoever has it closes both.

    Attributes:
        pid: Its process id; another process's once it is gone.
        handle: Its pidfd, which never means another process; -1 where the system has none.
        stream: The queen's end of its stream.
    """

    pid: int
    handle: int
    stream: socket.socket


class Zygote:
    """One bare interpreter that forks hosts on request."""

    def __init__(self, texts: Mapping[str, str] | None = None) -> None:
        """Describe a zygote; nothing runs yet.

        Args:
            texts: The trusted files by name; the packaged ones by default.
        """
        self._texts = trusted_texts() if texts is None else texts
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._turn = asyncio.Lock()
        self._is_wanted = False
        self._exchanges: set[asyncio.Task[Forked]] = set()
        self.walls: dict[str, str] = {}
        self.modules: tuple[str, ...] = ()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start the interpreter and return once it can fork.

        Raises:
            StartFailed: It did not come up.
        """
        self._is_wanted = True
        try:
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            self._control = ours
            with theirs:
                self._process = _spawn(theirs.fileno())
        except OSError as fault:
            await self._end()
            raise StartFailed(f"the policy sandbox cannot be started ({fault.strerror})") from fault
        try:
            async with asyncio.timeout(limits.POLICY_ZYGOTE_START_TIMEOUT_MS / 1_000):
                await self._set_up()
        except (TimeoutError, ConnectionError) as fault:
            process = self._process
            await self._end()
            _log.error("policy_sandbox_failed", exit_code=process.returncode, fault=repr(fault))
            raise StartFailed("the policy sandbox did not start; see stderr") from fault
        self._tell()

    async def spawn(self, terms: Terms) -> Forked:
        """Fork a host. It locks itself down and then says `ready` on its stream.

        Args:
            terms: What it may use.

        Raises:
            ConnectionError: The zygote is gone; the next call starts another.
            StartFailed: Another one did not start.
        """
        # Not to be cancelled between question and answer: the next caller would get this one's host.
        exchange = asyncio.create_task(self._exchange(terms))
        self._exchanges.add(exchange)
        exchange.add_done_callback(self._exchanges.discard)
        try:
            return await asyncio.shield(exchange)
        except asyncio.CancelledError:
            exchange.add_done_callback(_forget)
            raise

    async def stop(self) -> None:
        """Hang up; the zygote exits, and every host dies with it."""
        self._is_wanted = False
        for exchange in self._exchanges:
            exchange.cancel()
        await self._end()

    async def _end(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            # It was killed, so this takes a moment; but nobody's event loop waits for another process.
            await asyncio.to_thread(process.wait)

    async def _set_up(self) -> None:
        assert self._control is not None
        loop = asyncio.get_running_loop()
        body = msgpack.packb((self._texts, _numbers()))
        await loop.sock_sendall(self._control, len(body).to_bytes(4, "little") + body)
        length = int.from_bytes(await self._exactly(4), "little")
        if length > limits.POLICY_REPLY_BYTES_MAX:
            raise ConnectionError("no hello from the policy sandbox")
        match unpack(await self._exactly(length)):
            case [dict(walls), list(modules)]:
                self.walls = {str(name): str(text) for name, text in walls.items()}
                self.modules = tuple(str(name) for name in modules)
            case _:
                raise ConnectionError("no hello from the policy sandbox")

    async def _exactly(self, count: int) -> bytes:
        assert self._control is not None
        loop = asyncio.get_running_loop()
        taken = b""
        while len(taken) < count:
            part = await loop.sock_recv(self._control, count - len(taken))
            if not part:
                raise ConnectionError("the policy sandbox ended")
            taken += part
        return taken

    async def _exchange(self, terms: Terms) -> Forked:
        async with self._turn:
            if self._control is None and self._is_wanted:
                _log.error("policy_sandbox_restarted")
                await self.start()
            if self._control is None:
                raise ConnectionError("the policy sandbox is not running")
            ours, theirs = socket.socketpair()
            try:
                with theirs:
                    pid, handle = await self._ask(self._control, _request(terms), theirs)
            except BaseException:
                # What it would still answer must not be taken for the answer to another question.
                ours.close()
                await self._end()
                raise
            ours.setblocking(False)
            return Forked(pid, handle, ours)

    async def _ask(
        self, control: socket.socket, request: bytes, theirs: socket.socket
    ) -> tuple[int, int]:
        socket.send_fds(control, [request], [theirs.fileno()])
        async with asyncio.timeout(limits.POLICY_SPAWN_TIMEOUT_MS / 1_000):
            await _readable(control)
        answer, handles, _, _ = socket.recv_fds(control, 4, 1)
        if len(answer) != 4:
            raise ConnectionError("the policy sandbox ended")
        return int.from_bytes(answer, "little"), handles[0] if handles else -1

    def _tell(self) -> None:
        weak = {name: text for name, text in self.walls.items() if text}
        if weak:
            _log.warning("policy_sandbox_weaker", **weak)
        _log.info("policy_sandbox_ready", pid=self.pid)


def _forget(exchange: "asyncio.Task[Forked]") -> None:
    """End a host that nobody waits for any more: it exits when its stream ends."""
    if exchange.cancelled() or exchange.exception() is not None:
        return
    forked = exchange.result()
    forked.stream.close()
    if forked.handle >= 0:
        os.close(forked.handle)


def _spawn(descriptor: int) -> subprocess.Popen[bytes]:
    """Start the bare interpreter with its end of the stream, and nothing else of this process.

    Not by the event loop: uvloop forks, and where gRPC has threads every tenth child crashed before it became the
    interpreter. CPython's own Popen uses vfork, after which nothing runs but exec.
    """
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(_HOST_FOLDER), str(descriptor), *_packages()],
        env={}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        pass_fds=(descriptor,), start_new_session=True,
    )  # fmt: skip


def _request(terms: Terms) -> bytes:
    request: bytes = msgpack.packb(
        {
            "memory_bytes_max": terms.memory_bytes_max,
            "address_space_bytes": terms.address_space_bytes,
            "cpu_s": terms.cpu_s,
            "request_bytes_max": limits.POLICY_REQUEST_BYTES_MAX,
        }
    )
    return request


async def _readable(stream: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(stream, wake)
    try:
        await ready
    finally:
        loop.remove_reader(stream)


def _packages() -> list[str]:
    """Return the folders where lupa and msgpack lie, without running either."""
    folders: dict[str, None] = {}
    for name in ("lupa", "msgpack"):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise StartFailed(f'policies need {name}; install "beeyard[queen]"')
        folders[os.fspath(Path(spec.origin).parent.parent)] = None
    return list(folders)


def _numbers() -> dict[str, int]:
    """Return the limits that the trusted Lua files keep to."""
    return {
        "memory_bytes_max": limits.POLICY_MEMORY_LARGE_BYTES_MAX,
        "source_bytes_max": limits.POLICY_SOURCE_BYTES_MAX,
        "decisions_max": limits.POLICY_DECISIONS_MAX,
        "log_lines_max": limits.POLICY_LOG_LINES_MAX,
        "log_bytes_max": limits.POLICY_LOG_BYTES_MAX,
        "error_bytes_max": limits.POLICY_ERROR_BYTES_MAX,
        "call_depth_max": limits.POLICY_CALL_DEPTH_MAX,
        "id_bytes_max": limits.ID_BYTES_MAX,
        "retry_ms_max": limits.POLICY_WAIT_MS_MAX,
        "string_bytes_max": limits.POLICY_STRING_BYTES_MAX,
        "pattern_bytes_max": limits.POLICY_LUA_PATTERN_BYTES_MAX,
        "pattern_work_max": limits.POLICY_PATTERN_WORK_MAX,
        "state_bytes_max": limits.POLICY_STATE_BYTES_MAX,
        "state_depth_max": limits.POLICY_STATE_DEPTH_MAX,
    }
