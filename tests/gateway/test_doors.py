"""A tokens file at only one of gateway and queen is told when the gateway starts: everything seems to work with it."""

from pathlib import Path

import pytest
import structlog
from beeyard_gateway.doors import compare_doors
from beeyard_gateway.entrance import passed_on
from beeyard_gateway.queen_link import QueenLink
from beeyard_runtime.clock import SystemClock
from beeyard_runtime.security.callers import Role
from beeyard_runtime.security.dialing import Dialing
from beeyard_runtime.telemetry import Telemetry

from tests.support.eventually import eventually
from tests.support.running_gateway import running_gateway
from tests.support.running_queen import running_queen
from tests.support.tokens import Tokens


@pytest.mark.parametrize(
    ("queen", "gateway", "told"),
    [
        (False, False, []),
        (True, True, []),
        (False, True, ["queen_takes_everybody"]),
        (True, False, ["gateway_takes_everybody"]),
    ],
    ids=["neither", "both", "only the gateway", "only the queen"],
)
async def test_who_alone_tells_callers_apart_is_told(
    tmp_path: Path, queen: bool, gateway: bool, told: list[str]
) -> None:
    """Whatever token the gateway has: it asks as somebody who has none."""
    file = Tokens(tmp_path / "tokens.json")
    own = file.add("gateway", Role.OPERATOR)
    async with running_queen(tokens=file.path if queen else None) as served:
        dialing = Dialing(token=passed_on(lambda: own))
        link = QueenLink(served.queen.server.address, Telemetry(), dialing)
        with structlog.testing.capture_logs() as lines:
            await compare_doors(link, SystemClock(), is_closed=gateway)
        await link.close()
    assert [e for e in (line["event"] for line in lines) if e.endswith("_takes_everybody")] == told


async def test_a_gateway_looks_when_it_starts(tmp_path: Path) -> None:
    file = Tokens(tmp_path / "tokens.json")
    with structlog.testing.capture_logs() as lines:
        async with (
            running_queen() as served,
            running_gateway(served.queen.server.address, tokens=file.path),
        ):
            await eventually(
                lambda: [line for line in lines if line["event"] == "queen_takes_everybody"],
                "the gateway tells that its queen lets everybody in",
            )
