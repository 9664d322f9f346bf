"""A host without Lua, for the test of its walls: locks itself down for real, then does one forbidden thing.

Run as `python locked_down.py ATTEMPT PID`; prints what came of the lockdown, then what came of the attempt, as the
parent of the process that made it sees it: `exit 0` is an attempt that went through.
"""

import ctypes
import json
import mmap
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable

from beeyard_queen.policy.host.lockdown import Allowance, leave_machine, lock_down

libc = ctypes.CDLL(None, use_errno=True)


def _syscall(*arguments: int | bytes) -> None:
    if libc.syscall(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")


def _map_executable() -> None:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)


def _allocate() -> None:
    bytearray(1 << 30)


ATTEMPTS: dict[str, Callable[[], object]] = {
    "nothing": lambda: None,
    "open": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "create": lambda: os.open("/tmp/beeyard-escaped", os.O_CREAT | os.O_WRONLY),  # noqa: S108
    "socket": socket.socket,
    "fork": os.fork,
    "execve": lambda: os.execve("/bin/true", ["true"], {}),  # noqa: S606
    "kill": lambda: os.kill(os.getppid(), signal.SIGTERM),
    "kill_by_thread": lambda: _syscall(234, int(sys.argv[2]), int(sys.argv[2]), 15),
    "ptrace": lambda: libc.ptrace(16, os.getppid(), 0, 0),
    "setrlimit": lambda: __import__("resource").setrlimit(0, (1, 1)),
    "unshare": lambda: libc.unshare(0x10000000),
    "mount": lambda: libc.mount(b"none", b"/", b"tmpfs", 0, None),
    "thread": lambda: threading.Thread(target=print).start(),
    "io_uring": lambda: _syscall(425, 8, 0),
    "bpf": lambda: _syscall(321, 0, 0, 0),
    "process_vm_writev": lambda: _syscall(311, int(sys.argv[2]), 0, 0, 0, 0, 0),
    "send_descriptor": lambda: socket.socket(fileno=0).sendmsg([b"x"]),
    "old_32_bit_entry": lambda: _syscall(0x40000000 | 2, b"/etc/passwd", 0),
    "executable_memory": _map_executable,
    "a_gigabyte": _allocate,
}


def main() -> None:
    """Lock a child down, let it try, and say how it ended."""
    attempt = ATTEMPTS[sys.argv[1]]
    walls = leave_machine() if "--walls" in sys.argv else {}
    ours, theirs = socket.socketpair()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            came_to = lock_down(theirs.fileno(), parent, Allowance(512 << 20, 10))
            os.write(0, json.dumps(came_to).encode() + b"\n")
            attempt()
        except (OSError, MemoryError) as fault:
            os.write(0, type(fault).__name__.encode())
            os._exit(7)
        os._exit(0)
    theirs.close()
    _, status = os.waitpid(pid, 0)
    told = ours.recv(4096).decode().split("\n")
    code = os.waitstatus_to_exitcode(status)
    end = signal.Signals(-code).name if code < 0 else f"exit {code}"
    sys.stdout.write(
        json.dumps({"walls": walls, "lockdown": json.loads(told[0]), "end": end, "said": told[1]})
    )


if __name__ == "__main__":
    main()
