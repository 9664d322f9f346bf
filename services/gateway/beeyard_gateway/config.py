"""What an operator can tell the gateway, by file, environment or command line."""

from collections.abc import Sequence

from beeyard_core import limits
from beeyard_runtime.config import DialingSettings
from beeyard_runtime.flags import parse_flags
from pydantic import Field


class GatewaySettings(DialingSettings):
    """Settings of the gateway.

    Attributes:
        listen: `host:port` of the HTTP server.
        queen: `host:port` of the queen.
        public_hosts: A host name under which a proxy on this machine serves the gateway; may be repeated.
        connections_max: Connections at once; further ones are answered with 503.
        drain_lead_ms: How long /readyz says 503 after SIGTERM, in milliseconds, before new connections are refused:
            longer than the interval at which a load balancer asks.
        drain_grace_ms: How long running answers may go on after that, in milliseconds.
    """

    listen: str = "127.0.0.1:7780"
    queen: str = "127.0.0.1:7700"
    public_hosts: list[str] = Field(default_factory=list)
    connections_max: int = Field(
        default=limits.HTTP_CONNECTIONS_MAX, ge=1, le=limits.CONCURRENT_RPCS_MAX
    )
    drain_lead_ms: int = Field(default=limits.DRAIN_LEAD_MS, ge=0, le=limits.STOP_GRACE_MS_MAX)
    drain_grace_ms: int = Field(default=limits.DRAIN_GRACE_MS, ge=0, le=limits.STOP_GRACE_MS_MAX)


def read_settings(arguments: Sequence[str]) -> GatewaySettings:
    """Return the settings out of flags, environment and file.

    Raises:
        ConfigInvalid: One of them is wrong.
    """
    given = parse_flags(
        GatewaySettings,
        arguments,
        role="gateway",
        description="The gateway speaks HTTP for a queen: the OpenAI API, jobs, policies, the live view.",
    )
    return GatewaySettings.load("gateway", overrides=given)
