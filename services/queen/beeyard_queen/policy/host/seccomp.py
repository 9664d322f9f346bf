"""The list of system calls that a host may make, as a filter in the kernel; everything else is its death.

Written as raw BPF through `prctl`, because a library for it would be one more thing inside the sandbox. The filter
looks at the architecture first (a call number means another call elsewhere), lets the listed calls pass, answers EPERM
where memory would become executable, and kills the process for anything else. A host reads and writes its one
descriptor, manages memory, reads clocks and exits: it needs no call that names a file, an address, a process or a
signal's target.

Only architectures whose numbers were checked against the kernel's headers are here; `install` says so of others.
"""

import ctypes
import os
import platform
import sys
from dataclasses import dataclass
from typing import Final

_PR_SET_SECCOMP: Final = 22
_MODE_FILTER: Final = 2

_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_IF_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_IF_BITS: Final = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K
_KILL_PROCESS: Final = 0x80000000
_ALLOW: Final = 0x7FFF0000
_REFUSE: Final = 0x00050000 | 1  # EPERM
_OFFSET_NUMBER: Final = 0
_OFFSET_ARCHITECTURE: Final = 4
_OFFSET_PROTECTION: Final = 16 + 2 * 8  # low word of the third argument, on little-endian machines
_PROT_EXEC: Final = 4

Instruction = tuple[int, int, int, int]


@dataclass(frozen=True)
class Architecture:
    """The numbers of one machine.

    Attributes:
        token: What the kernel calls it (AUDIT_ARCH_...).
        mappings: Calls that could make memory executable.
        allowed: All other calls that a host may make.
    """

    token: int
    mappings: tuple[int, ...]
    allowed: tuple[int, ...]


# Both lists in one order: read, write, close, munmap, mremap, madvise, brk, futex, clock_gettime, gettimeofday,
# sched_yield, getrandom, restart_syscall, rt_sigreturn, exit, exit_group.
ARCHITECTURES: Final = {
    "x86_64": Architecture(
        token=0xC000003E,
        mappings=(9, 10),
        allowed=(0, 1, 3, 11, 25, 28, 12, 202, 228, 96, 24, 318, 219, 15, 60, 231),
    ),
    "aarch64": Architecture(
        token=0xC00000B7,
        mappings=(222, 226),
        allowed=(63, 64, 57, 215, 216, 233, 214, 98, 113, 169, 124, 278, 128, 139, 93, 94),
    ),
}


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("if_true", ctypes.c_ubyte),
        ("if_false", ctypes.c_ubyte),
        ("operand", ctypes.c_uint),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction)))


def program(machine: Architecture) -> tuple[Instruction, ...]:
    """Return the filter for a machine: (code, jump if true, jump if false, operand) each."""
    lines: list[Instruction] = [
        (_LOAD, 0, 0, _OFFSET_ARCHITECTURE),
        (_IF_EQUAL, 1, 0, machine.token),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _OFFSET_NUMBER),
    ]
    for number in machine.mappings:
        lines += [
            (_IF_EQUAL, 0, 4, number),
            (_LOAD, 0, 0, _OFFSET_PROTECTION),
            (_IF_BITS, 0, 1, _PROT_EXEC),
            (_RETURN, 0, 0, _REFUSE),
            (_RETURN, 0, 0, _ALLOW),
        ]
    for number in machine.allowed:
        lines += [(_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    return (*lines, (_RETURN, 0, 0, _KILL_PROCESS))


def install(libc: ctypes.CDLL) -> str:
    """Put this process under the filter, for good.

    Args:
        libc: The C library, already able to call `prctl`; `no_new_privs` is set.

    Returns:
        Nothing if the filter is in force; otherwise why not, for the log.
    """
    if sys.platform != "linux":
        return f"{sys.platform} has no seccomp"
    machine = ARCHITECTURES.get(platform.machine())
    if machine is None or sys.byteorder != "little":
        return f"no list of system calls for {platform.machine()}"
    lines = program(machine)
    array = (_Instruction * len(lines))(*(_Instruction(*line) for line in lines))
    filter_program = _Program(len(lines), array)
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(filter_program), 0, 0) != 0:
        return f"prctl: {os.strerror(ctypes.get_errno())}"
    return ""
