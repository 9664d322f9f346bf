"""A network of its own in which a firewall drops packets, for a program that runs in it as a whole.

The kernel drops them: connections stay open at both ends, and nobody is told. Needs no rights: whoever may make a user
namespace is root of the network in it.
"""

import asyncio
import fcntl
import os
import shlex
import shutil
import socket
import struct
import subprocess
import sys

import pytest

from tests.style.repository import ROOT
from tests.support.debian_tools import debian_library, debian_tool

#: Nothing listens here: what is sent to this port of loopback passes the firewall, and comes out at the queen's.
DOOR_PORT = 7_999
_IPTABLES = "BEEYARD_TEST_IPTABLES"
#: What a Debian package of iptables needs beside it.
_LIBRARIES = (
    ("libxtables12", "libxtables.so.12*"),
    ("libnftnl11", "libnftnl.so.11*"),
    ("libmnl0", "libmnl.so.0*"),
)
#: Connections are known by where they went at first, in either direction.
_THROUGH_THE_DOOR = f"-p tcp -m conntrack --ctorigdstport {DOOR_PORT} -j DROP".split()
_SIOCSIFFLAGS, _IFF_UP, _IFF_RUNNING = 0x8914, 0x1, 0x40


async def run_behind_firewall(module: str, patience_s: float) -> str:
    """Run a module of ours in a network of its own, in which there is a `Firewall`; return what it printed.

    Skips the test where there is no iptables to be had, or no namespace to be made.

    Raises:
        AssertionError: It failed; what it printed is told.
    """
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here: install util-linux to run this test")
    # Processes of its own, too: whatever the module started ends with it.
    unshare = "unshare --user --map-root-user --net --pid --mount-proc --kill-child".split()
    iptables = await asyncio.to_thread(_iptables)
    probe = [*unshare, *iptables, "-t", "nat", "-L", "-n"]
    tried = await asyncio.to_thread(
        subprocess.run, probe, capture_output=True, text=True, check=False
    )
    if tried.returncode:
        pytest.skip(f"no firewall can be made here: {tried.stderr.strip()[-200:]}")
    process = await asyncio.create_subprocess_exec(
        *unshare, sys.executable, "-m", module,
        cwd=ROOT, env={**os.environ, _IPTABLES: shlex.join(iptables)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(patience_s):
            told, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, told.decode(errors="replace")
    return told.decode()


class Firewall:
    """The firewall of the network that this process runs in; see `run_behind_firewall`."""

    def __init__(self, port: int) -> None:
        """Let what is sent to DOOR_PORT come out at this port."""
        _bring_loopback_up()
        door = ["-p", "tcp", "--dport", str(DOOR_PORT), "-j", "REDIRECT", "--to-ports", str(port)]
        _run("-t", "nat", "-A", "OUTPUT", *door)

    def drop(self) -> None:
        """Drop every packet of each connection through the door from now on, in either direction."""
        _run("-A", "INPUT", *_THROUGH_THE_DOOR)

    def heal(self) -> int:
        """Drop nothing any more; return how many packets were dropped."""
        counted = _run("-L", "INPUT", "-n", "-v", "-x").splitlines()[-1]
        _run("-D", "INPUT", *_THROUGH_THE_DOOR)
        return int(counted.split()[0])


def _iptables() -> list[str]:
    """Return the command that is iptables here; its libraries are for it alone."""
    program = debian_tool("iptables", "usr/sbin/iptables-nft")
    if shutil.which(program.name):
        return [str(program)]
    libraries = [debian_library(package, name).parent for package, name in _LIBRARIES]
    [extensions] = (program.parent.parent / "lib").glob("*/xtables")
    found = {"LD_LIBRARY_PATH": ":".join(map(str, libraries)), "XTABLES_LIBDIR": str(extensions)}
    return ["env", *(f"{name}={value}" for name, value in found.items()), str(program)]


def _bring_loopback_up() -> None:
    request = struct.pack("16sh14x", b"lo", _IFF_UP | _IFF_RUNNING)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request)


def _run(*arguments: str) -> str:
    command = [*shlex.split(os.environ[_IPTABLES]), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
