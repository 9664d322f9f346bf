"""The zygote: `python -I -S policy/host DESCRIPTOR PACKAGES...`, started by the queen, never by a person.

DESCRIPTOR is a stream to the queen; PACKAGES are the folders where lupa and msgpack lie. The first message on the
stream holds the trusted files; each further one asks for a host and brings the descriptor of the host's own stream.
"""

import gc
import os
import signal
import socket
import sys
import types


def _stand_in_for_packages(folder: str) -> None:
    """Make modules of this folder importable by their full names without running the packages above it."""
    for depth, name in enumerate(
        ("beeyard_queen", "beeyard_queen.policy", "beeyard_queen.policy.host")
    ):
        package = types.ModuleType(name)
        path = folder
        for _ in range(2 - depth):
            path = os.path.dirname(path)  # noqa: PTH120  pathlib is not worth loading in here
        package.__path__ = [path]
        sys.modules[name] = package


def _reap(*_: object) -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def run(control: socket.socket) -> None:
    """Prepare, then fork hosts until the queen hangs up."""
    import msgpack  # noqa: PLC0415  found only now, after the path was set

    from beeyard_queen.policy.host.frames import FrameReader, write_frame  # noqa: PLC0415
    from beeyard_queen.policy.host.lockdown import leave_machine  # noqa: PLC0415
    from beeyard_queen.policy.host.lua_state import LuaState  # noqa: PLC0415
    from beeyard_queen.policy.host.serving import serve  # noqa: PLC0415

    first = FrameReader(control.fileno(), 1 << 24).read()
    if first is None:
        return
    texts, limits = msgpack.unpackb(first, raw=True)
    state = LuaState(texts, limits)
    came_to = leave_machine()
    signal.signal(signal.SIGCHLD, _reap)
    gc.collect()
    gc.freeze()
    modules = sorted({name.partition(".")[0] for name in sys.modules})
    write_frame(control.fileno(), msgpack.packb((came_to, modules)))
    zygote_pid = os.getpid()
    while True:
        request, descriptors, _, _ = socket.recv_fds(control, 4096, 1)
        if not request:
            return
        terms = msgpack.unpackb(request, raw=True)
        # A child must not be reaped before its descriptor is taken: its number could be another process's by then.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        pid = os.fork()
        if pid == 0:
            try:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
                serve(state, descriptors[0], zygote_pid, terms)
            finally:
                os._exit(0)
        handle = [os.pidfd_open(pid)] if hasattr(os, "pidfd_open") else []
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        socket.send_fds(control, [pid.to_bytes(4, "little")], handle)
        for descriptor in (*handle, *descriptors):
            os.close(descriptor)


if __name__ == "__main__":
    _stand_in_for_packages(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    sys.path += sys.argv[2:]
    run(socket.socket(fileno=int(sys.argv[1])))
