"""Whether gateway and queen agree on whom they let in, looked at once when the gateway has found its queen.

Each takes a tokens file of its own, and each is content without one. With one at only one of the two everything seems
to work, and is not what anybody wanted: a queen without it lets tenants look at each other's jobs, a gateway without it
shows its live view to everybody on the machine.
"""

from typing import Final

from beeyard.queen.v1 import fleet_service_pb2 as fleet_pb
from beeyard_core import limits
from beeyard_core.refusal import Refusal
from beeyard_runtime.clock import Clock
from beeyard_runtime.log import get_log

from beeyard_gateway.entrance import showing
from beeyard_gateway.faults import Fault
from beeyard_gateway.queen_link import QueenLink

_CLOSED: Final = {Refusal.UNAUTHENTICATED.value, Refusal.PERMISSION_DENIED.value}
_log = get_log("doors")


async def compare_doors(link: QueenLink, clock: Clock, *, is_closed: bool) -> None:
    """Warn if only one of gateway and queen tells callers apart; waits for as long as there is no queen.

    Args:
        link: The queen.
        clock: The time.
        is_closed: Whether this gateway tells callers apart.
    """
    queen_is_closed = await _is_closed(link, clock)
    if is_closed and not queen_is_closed:
        _log.warning(
            "queen_takes_everybody",
            advice="give the queen the tokens file, too: by itself a gateway does not know whose jobs are whose",
        )
    elif queen_is_closed and not is_closed:
        _log.warning(
            "gateway_takes_everybody",
            advice="give the gateway the tokens file, too: it shows everybody what it may see by its own token",
        )


async def _is_closed(link: QueenLink, clock: Clock) -> bool:
    """Return whether the queen refuses a harmless question of somebody who shows no token."""
    while True:
        try:
            with showing(""):
                await link.ask(link.fleet.ListModels, fleet_pb.ListModelsRequest())
        except Fault as fault:
            if fault.reason in _CLOSED:
                return True
            await clock.sleep_ms(limits.RETRY_DELAY_MS)
        else:
            return False
