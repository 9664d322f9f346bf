"""Replies of hosts are read with suspicion: whoever broke out of Lua could have written them."""

import msgpack
import pytest
from beeyard_core import limits
from beeyard_queen.policy.reply import Reply, ReplyInvalid, Status, read_reply, read_value

GOOD = [
    "ok",
    None,
    None,
    [{"action": "wait", "retry_after_ms": 5}],
    [["info", "hi"]],
    [["m", 1.5]],
    b"kept",
    100_000,
]


def packed(*changes: tuple[int, object]) -> bytes:
    fields: list[object] = list(GOOD)
    for index, value in changes:
        fields[index] = value
    body: bytes = msgpack.packb(fields)
    return body


def test_a_good_reply_is_read() -> None:
    assert read_reply(packed()) == Reply(
        Status.OK,
        decisions=({"action": "wait", "retry_after_ms": 5},),
        logs=(("info", "hi"),),
        metrics=(("m", 1.5),),
        state=b"kept",
        instructions=100_000,
    )
    assert read_reply(packed((6, None))).state is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\xc7\x01\x01x",
        msgpack.packb({}),
        msgpack.packb(["ok"]),
        msgpack.packb([*GOOD, 1]),
        packed((0, "splendid")),
        packed((0, 1)),
        packed((1, 1)),
        packed((2, "x")),
        packed((3, {})),
        packed((3, [1])),
        packed((3, [{}])),
        packed((3, [{"action": "wait", "sudo": "x"}])),
        packed((3, [{"action": {"a": "b"}}])),
        packed((3, [{"action": "x" * 257}])),
        packed((3, [{"action": "wait", "retry_after_ms": -1}])),
        packed((3, [{"action": "wait", "retry_after_ms": 1e9}])),
        packed((3, [{"action": "start_worker", "start_worker": {"model_ref": {}}}])),
        packed((3, [{"action": "start_worker", "start_worker": {"path": "x"}}])),
        packed((3, [{"action": "wait"}] * (limits.POLICY_DECISIONS_MAX + 1))),
        packed((4, [["info"]])),
        packed((4, [["info", "x" * 257]])),
        packed((5, [["m", "1"]])),
        packed((6, "text")),
        packed((6, bytes(limits.POLICY_STATE_BYTES_MAX + 1))),
        packed((7, None)),
        packed() + b"\x00",
        msgpack.packb(["broken", "TypeError"]),
    ],
)
def test_anything_else_is_a_fault_of_the_host(body: bytes) -> None:
    with pytest.raises(ReplyInvalid):
        read_reply(body)


def test_a_host_that_ran_out_of_memory_may_say_so_in_two_words() -> None:
    assert read_reply(msgpack.packb(["memory", "x"])) == Reply(Status.MEMORY, "x")


def test_values_come_alone() -> None:
    assert read_value(msgpack.packb(["ok", 5])) == 5
    with pytest.raises(ReplyInvalid, match="broken: x"):
        read_value(msgpack.packb(["broken", "x"]))
    with pytest.raises(ReplyInvalid):
        read_value(msgpack.packb([]))
