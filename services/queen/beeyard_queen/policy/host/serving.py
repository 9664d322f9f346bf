"""One host's life: locked down, it answers the queen's requests until the stream ends or something is amiss.

A host never repairs itself. After a memory error, or an error that should not be, its state cannot be trusted: it says
so and exits, and the queen takes another.
"""

import os
from collections.abc import Callable
from typing import Any, Final

import msgpack

from beeyard_queen.policy.host.frames import FrameReader, write_frame
from beeyard_queen.policy.host.lockdown import Allowance, lock_down
from beeyard_queen.policy.host.lua_state import LuaMemoryError, LuaState

_ERROR_BYTES_MAX: Final = 400
_FAILED: Final = 3


def serve(state: LuaState, stream: int, zygote_pid: int, terms: dict[bytes, int]) -> None:
    """Lock this process down and serve until the queen hangs up; never returns to the caller's work.

    Args:
        state: The prepared Lua state; this process's own copy.
        stream: The descriptor of the stream to the queen.
        zygote_pid: The process that forked this one.
        terms: What the host may use: address_space_bytes, cpu_s, memory_bytes_max, request_bytes_max.
    """
    allowance = Allowance(terms[b"address_space_bytes"], terms[b"cpu_s"])
    came_to = lock_down(stream, zygote_pid, allowance)
    state.limit_memory(terms[b"memory_bytes_max"])
    answers = _answers(state)
    requests = FrameReader(0, terms[b"request_bytes_max"])
    write_frame(0, _packed("ready", came_to))
    while (frame := requests.read()) is not None:
        try:
            operation, *arguments = msgpack.unpackb(frame, raw=True, strict_map_key=False)
            reply = answers[operation](*arguments)
        except LuaMemoryError:
            _give_up("memory", "the host ran out of memory")
        except Exception as fault:  # noqa: BLE001  whatever it is, the state cannot be trusted any more
            _give_up("broken", f"{type(fault).__name__}: {fault}")
        write_frame(0, reply)


def _answers(state: LuaState) -> dict[bytes, Callable[..., bytes]]:
    def decide(
        seed: int,
        now_ms: int,
        cpu_ms: int,
        instructions: int,
        deltas: list[list[Any]],
        held: bytes | None,
    ) -> bytes:
        state.apply(deltas)
        return state.decide(seed, now_ms, cpu_ms, instructions, held)

    def apply(deltas: list[list[Any]]) -> bytes:
        state.apply(deltas)
        return _packed("ok", None)

    return {
        b"load": state.load,
        b"decide": decide,
        b"apply": apply,
        b"digest": lambda: _packed("ok", state.digest().decode()),
        b"names": lambda: _packed("ok", state.names().decode()),
        b"memory": lambda: _packed("ok", state.memory_bytes()),
        b"ping": lambda: _packed("ok", None),
    }


def _packed(status: str, value: object) -> bytes:
    packed: bytes = msgpack.packb((status, value))
    return packed


def _give_up(status: str, text: str) -> None:
    write_frame(0, _packed(status, text[:_ERROR_BYTES_MAX]))
    os._exit(_FAILED)
