"""How a process gives up what it does not need, before it touches a line of a policy.

Two steps, because the first is slow and the same for all hosts. The *zygote* leaves the machine's namespaces, its file
system and its user behind once; every host forked from it inherits that. The *host* then gives up descriptors,
resources and, last, all but a few system calls. Each measure is tried where it is allowed, and what came of it is
reported, so that the queen's log says how strong the walls are on this machine; none needs another to work.
"""

import ctypes
import os
import resource
import signal
import sys
import tempfile
from dataclasses import dataclass
from typing import Final

from beeyard_queen.policy.host import seccomp

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38
_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWUTS: Final = 0x04000000
_CLONE_NEWIPC: Final = 0x08000000
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000
_NOBODY: Final = 65_534
_DESCRIPTORS_MAX: Final = 64

_libc: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Allowance:
    """What a host may use.

    Attributes:
        address_space_bytes: All its memory, mapped or not.
        cpu_s: CPU time over its whole life; its end if nobody else ends it.
    """

    address_space_bytes: int
    cpu_s: int


def leave_machine() -> dict[str, str]:
    """Give up namespaces, files and user, once and for all children. For the zygote, which still forks afterwards.

    Returns:
        What each measure came to: nothing if it is in force, otherwise why not.
    """
    came_to = {
        "namespaces": _leave_namespaces(),
        "files": _leave_files(),
        "user": _leave_user(),
        "new_privileges": _prctl(_PR_SET_NO_NEW_PRIVS, 1),
    }
    _prctl(_PR_SET_DUMPABLE, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower(resource.RLIMIT_NOFILE, _DESCRIPTORS_MAX)
    return came_to


def lock_down(descriptor: int, parent_pid: int, allowance: Allowance) -> dict[str, str]:
    """Give up everything but one stream. For a host, right after it was forked.

    Args:
        descriptor: The stream to the queen; it becomes descriptor 0, and no other stays open.
        parent_pid: The zygote; the host dies with it.
        allowance: What the host may use.

    Returns:
        What each measure came to: nothing if it is in force, otherwise why not.
    """
    os.environ.clear()
    os.dup2(descriptor, 0, inheritable=False)
    os.closerange(1, _DESCRIPTORS_MAX)
    came_to = {"parent_death": _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)}
    if os.getppid() != parent_pid:
        os._exit(0)
    _prctl(_PR_SET_DUMPABLE, 0)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_NOFILE, 1)
    _lower(resource.RLIMIT_NPROC, 0)
    _lower(resource.RLIMIT_CPU, allowance.cpu_s)
    _lower(resource.RLIMIT_AS, allowance.address_space_bytes)
    came_to["system_calls"] = seccomp.install(_libc)
    return came_to


def _leave_namespaces() -> str:
    if sys.platform != "linux":
        return f"{sys.platform} has none"
    spaces = _CLONE_NEWNET | _CLONE_NEWNS | _CLONE_NEWIPC | _CLONE_NEWUTS
    if os.geteuid() != 0:
        # Everybody may have them in a user namespace of his own, unless the machine forbids that.
        spaces |= _CLONE_NEWUSER
    if _libc.unshare(spaces) != 0:
        return os.strerror(ctypes.get_errno())
    return ""


def _leave_files() -> str:
    try:
        folder = tempfile.mkdtemp(prefix="beeyard-policy-")
        root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        # In a folder that is no longer in any tree, nothing can be found and nothing made.
        os.rmdir(folder)  # noqa: PTH106  pathlib is not worth loading in here
        os.fchdir(root)
        os.close(root)
        os.chroot(".")
    except OSError as fault:
        return fault.strerror or "refused"
    return ""


def _leave_user() -> str:
    if os.geteuid() != 0:
        return ""
    try:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    except OSError as fault:
        return fault.strerror or "refused"
    return ""


def _prctl(option: int, value: int) -> str:
    if sys.platform != "linux":
        return f"{sys.platform} has no prctl"
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        return os.strerror(ctypes.get_errno())
    return ""


def _lower(kind: int, value: int) -> None:
    """Lower a limit as far as `value`; one that is lower already stays."""
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))
