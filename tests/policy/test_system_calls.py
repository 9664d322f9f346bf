"""The walls around a host, looked at from the kernel's side: what a process in it can still do if Lua is broken out of.

A host without Lua locks itself down in earnest and then makes one system call that it must not. The control makes the
same attempt without the filter, so that an attempt that would fail anyway proves nothing.
"""

import asyncio
import json
import os
import platform
import shutil
import sys
from pathlib import Path

import pytest
from beeyard_queen.policy.host import seccomp

from tests.support.policy_sandbox import running_policy, running_zygote

SCRIPT = Path(__file__).with_name("locked_down.py")
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in seccomp.ARCHITECTURES,
    reason="no list of system calls for this machine; the sandbox says so in its log",
)
DEADLY = [
    "open", "create", "socket", "fork", "execve", "kill", "kill_by_thread", "ptrace", "setrlimit", "unshare", "mount",
    "thread", "io_uring", "bpf", "process_vm_writev", "send_descriptor", "old_32_bit_entry",
]  # fmt: skip
X86_ONLY = {"kill_by_thread", "process_vm_writev", "bpf", "old_32_bit_entry"}


async def attempted(name: str, *options: str) -> dict[str, object]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(SCRIPT), name, str(os.getpid()), *options,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    told: dict[str, object] = json.loads(out)
    return told


@pytest.mark.parametrize("name", DEADLY)
async def test_a_forbidden_system_call_is_the_end(name: str) -> None:
    if name in X86_ONLY and platform.machine() != "x86_64":
        pytest.skip("the number is another one here")
    told = await attempted(name)
    assert told["end"] == "SIGSYS", told


async def test_memory_never_becomes_executable() -> None:
    told = await attempted("executable_memory")
    assert (told["end"], told["said"]) == ("exit 7", "PermissionError")


async def test_memory_is_bounded() -> None:
    told = await attempted("a_gigabyte")
    assert (told["end"], told["said"]) == ("exit 7", "MemoryError")


async def test_a_host_that_tries_nothing_lives() -> None:
    """The control of all the others: it is the attempt that kills, not the lockdown."""
    told = await attempted("nothing")
    assert told["end"] == "exit 0"
    assert told["lockdown"] == {"parent_death": "", "system_calls": ""}


async def test_the_zygote_leaves_user_files_and_namespaces_behind_where_it_may() -> None:
    told = await attempted("nothing", "--walls")
    walls = told["walls"]
    assert isinstance(walls, dict)
    assert walls["new_privileges"] == ""
    if os.geteuid() == 0:
        assert walls["user"] == ""


def test_the_filter_ends_in_death_and_checks_the_architecture_first() -> None:
    for machine in seccomp.ARCHITECTURES.values():
        lines = seccomp.program(machine)
        assert lines[1] == (0x15, 1, 0, machine.token)
        assert lines[2][3] == lines[-1][3] == 0x80000000


async def test_a_running_host_holds_nothing_but_its_stream() -> None:
    source = "function schedule() return {action = 'wait'} end"
    async with running_zygote() as zygote, running_policy(zygote, source) as policy:
        assert "grpc" not in zygote.modules
        assert not {name for name in zygote.modules if name.startswith("beeyard_")} - {
            "beeyard_queen"  # an empty stand-in above the host's own folder
        }
        assert policy.current is not None
        proc = Path(f"/proc/{policy.current.pid}")
        ours = os.readlink("/proc/self/ns/net")  # noqa: PTH115  as text
        status = dict(
            line.split(":\t", 1)
            for line in (proc / "status").read_text().splitlines()
            if "\t" in line
        )
        assert status["Seccomp"] == "2"
        assert status["NoNewPrivs"] == "1"
        if os.geteuid() == 0:
            assert [path.name for path in (proc / "fd").iterdir()] == ["0"]
            assert (proc / "environ").read_bytes().strip(b"\0") == b""
            assert status["Uid"].split() == ["65534"] * 4
            assert int(status["CapEff"], 16) == 0
            assert str((proc / "ns" / "net").readlink()) != ours
            assert list((proc / "root").iterdir()) == []


def traced(folder: Path) -> list[str]:
    """Return the traces of the processes that locked themselves down."""
    texts = [path.read_text() for path in folder.glob("calls.*")]
    return [text for text in texts if "PR_SET_SECCOMP" in text]


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.slow
async def test_strace_sees_hosts_of_hostile_policies_make_no_other_system_call(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-m", "tests.support.hostile_cases"]
    process = await asyncio.create_subprocess_exec(
        "strace", "-ff", "-qq", "-o", str(tmp_path / "calls"), *command,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, fault = await process.communicate()
    if b"PTRACE" in fault and b"not permitted" in fault:
        pytest.skip("this machine lets nobody trace")
    count = int(out.split()[0])
    hosts = traced(tmp_path)
    # One or two a case: the policy's, and the platform's in its place.
    assert len(hosts) >= count > 150
    assert not [text for text in hosts if "SIGSYS" in text]
    after = [line for text in hosts for line in text.split("PR_SET_SECCOMP", 1)[1].splitlines()[1:]]
    calls = {line.split("(", 1)[0] for line in after if line[:1].islower() and "(" in line}
    assert "read" in calls
    assert "write" in calls
    assert calls <= {
        "read", "write", "mmap", "mprotect", "munmap", "mremap", "madvise", "brk", "futex", "clock_gettime",
        "gettimeofday", "sched_yield", "getrandom", "rt_sigreturn", "restart_syscall", "exit_group",
    }  # fmt: skip
