"""How a service process begins and ends: signals, exit codes, and the one line that tells a parent it is ready.

The first SIGTERM or SIGINT asks for a drain, the second ends the process at once with 130. An expected fault is one
line on stderr; anything else is a bug and shows its traceback.
"""

import asyncio
import gc
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from beeyard_runtime.faults import ConfigInvalid, ListenFailed, StartFailed
from beeyard_runtime.log import get_log

__all__ = [
    "ConfigInvalid",
    "ListenFailed",
    "StartFailed",
    "Stop",
    "announce",
    "report_fault",
    "run_service",
    "uncollected",
]

EXIT_HARD = 130
#: Objects made since the last collection that start the next one. The default of 700 is reached by every few calls,
#: and a service makes hardly any cycles: it spent a twelfth of its time looking for them.
_COLLECT_AFTER_OBJECTS = 20_000


class Stop:
    """The wish that this process ends, to be waited for by `main` and set by a signal or by the service itself."""

    def __init__(self) -> None:
        """Begin unset."""
        self._event = asyncio.Event()

    @property
    def is_set(self) -> bool:
        """Whether the process has been asked to end."""
        return self._event.is_set()

    def set(self) -> None:
        """Ask the process to end. Idempotent."""
        self._event.set()

    async def wait(self) -> None:
        """Return once the process has been asked to end."""
        await self._event.wait()


@contextmanager
def uncollected() -> Iterator[None]:
    """Make many objects that will live long, without looking again and again for garbage among them.

    A hundred thousand jobs that are read back are looked through a dozen times over while they are made, which takes
    longer than making them; and they are looked through no more once the block is left. Nothing is changed where the
    process does not look for garbage anyway, as in a simulation of many queens, each of which would leave its own.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def run_service(main: Callable[[Stop], Awaitable[None]], name: str) -> int:
    """Run `main` on its own event loop until it returns.

    Args:
        main: The service. Drains and returns soon after its `Stop` is set.
        name: The role, for messages.

    Returns:
        The exit code: 0 after a drain, 1 after a fault, 2 for a wrong configuration.
    """
    # What is imported lives as long as the process and needs no looking at.
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER_OBJECTS, *gc.get_threshold()[1:])
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_supervise(main))
    except StartFailed as fault:
        return report_fault(name, fault)
    except Exception:  # noqa: BLE001  # a bug: shown with its traceback, and told by the exit code
        get_log("lifecycle").exception("service_crashed", role=name)
        return 1
    return 0


def report_fault(name: str, fault: StartFailed) -> int:
    """Print the fault as one line on stderr and return the exit code that goes with it."""
    message = " ".join(str(fault).split())
    sys.stderr.write(f"beeyard {name}: {message}\n")
    sys.stderr.flush()
    return fault.exit_code


def announce(name: str, address: str, **fields: str | int | None) -> None:
    """Tell the parent process, on stdout as one JSON line, that this service is ready and where.

    Args:
        name: The role, such as `queen`.
        address: The bound `host:port`.
        fields: Further facts, such as `admin_address`; a None is left out.
    """
    line = {"ready": name, "address": address, **{k: v for k, v in fields.items() if v is not None}}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


async def _supervise(main: Callable[[Stop], Awaitable[None]]) -> None:
    stop = Stop()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)

    def on_signal() -> None:
        if stop.is_set:
            _exit_hard()
        stop.set()

    for number in signals:
        loop.add_signal_handler(number, on_signal)
    try:
        await main(stop)
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def _exit_hard() -> NoReturn:
    # No cleanup: whoever signals twice has waited long enough, and everything that matters is already committed.
    os._exit(EXIT_HARD)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415  # absent where it has no build
    except ImportError:
        return None
    return uvloop.new_event_loop
