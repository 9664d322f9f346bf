"""Connections between processes: in order within each call, in any order between calls, late, held up, or broken.

A connection stands for one TCP connection with HTTP/2 on it. While a path is cut its bytes wait and arrive afterwards,
as TCP sends them again; a connection that could not answer a keepalive ping for long enough is given up by each end on
its own. A killed process's peers hear of it at once by a reset, or, if the machine lost its power, not at all.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, unique
from typing import Final, Protocol

from beeyard_core import limits

from tests.simulation.world import US_PER_MS, Process, World

KEEPALIVE_US: Final = (limits.KEEPALIVE_TIME_MS + limits.KEEPALIVE_TIMEOUT_MS) * US_PER_MS
#: How long an attempt to connect over a path that is cut goes on.
CONNECT_TIMEOUT_US: Final = 3_000 * US_PER_MS
_LATENCY_US: Final = (100, 1_500)


@unique
class Kind(Enum):
    """What travels on a connection."""

    OPEN = "open"
    DATA = "data"
    HALF_CLOSE = "half close"
    CANCEL = "cancel"
    STATUS = "status"
    CREDIT = "credit"


class CallEnd(Protocol):
    """One end of one call."""

    def take(self, kind: Kind, payload: object) -> None:
        """Take what the other end sent."""

    def broke(self) -> None:
        """Learn that the connection is gone."""


class Listener(Protocol):
    """A server as the network sees it."""

    process: Process

    def accept(self, connection: "Connection", call_id: int, opening: object) -> None:
        """Begin to serve a call."""


class Connection:
    """One connection; `client` and `server` are its two ends."""

    def __init__(self, network: "Network", client: Process, listener: Listener) -> None:
        self._network = network
        self.client = client
        self.listener = listener
        self.server = listener.process
        self.client_calls: dict[int, CallEnd] = {}
        self.server_calls: dict[int, CallEnd] = {}
        #: Which ends hold it for open.
        self.is_up = {client: True, self.server: True}
        self._arrivals: dict[tuple[int, Process], int] = {}
        self._held: dict[Process, list[tuple[int, Kind, object]]] = {client: [], self.server: []}
        self._suspicion = 0

    def other(self, end: Process) -> Process:
        """Return the other end."""
        return self.server if end is self.client else self.client

    def send(self, sender: Process, call_id: int, kind: Kind, payload: object) -> None:
        """Send something to the other end; it arrives after what was sent before in the same call."""
        if not (sender.is_alive and self.is_up[sender]):
            return
        world, receiver = self._network.world, self.other(sender)
        at_us = world.now_us + self._network.latency_us()
        key = (call_id, receiver)
        at_us = self._arrivals[key] = max(at_us, self._arrivals.get(key, 0))
        world.at(at_us - world.now_us, lambda: self._arrive(receiver, call_id, kind, payload))

    def _arrive(self, receiver: Process, call_id: int, kind: Kind, payload: object) -> None:
        sender = self.other(receiver)
        if self._held[receiver] or self._network.is_cut(sender.host, receiver.host):
            self._held[receiver].append((call_id, kind, payload))
            return
        self._deliver(receiver, call_id, kind, payload)

    def release(self) -> None:
        """Deliver what waited for a cut path, if it is open again."""
        for receiver, held in self._held.items():
            if held and not self._network.is_cut(self.other(receiver).host, receiver.host):
                waiting, held[:] = held[:], []
                for call_id, kind, payload in waiting:
                    self._deliver(receiver, call_id, kind, payload)

    def _deliver(self, receiver: Process, call_id: int, kind: Kind, payload: object) -> None:
        if not (receiver.is_alive and self.is_up[receiver]):
            return
        calls = self.client_calls if receiver is self.client else self.server_calls
        if kind is Kind.OPEN:
            self.listener.accept(self, call_id, payload)
            return
        call = calls.get(call_id)
        if call is not None:
            receiver.loop.call_soon(call.take, kind, payload)

    # --- Its end ---

    @property
    def is_responsive(self) -> bool:
        """Whether a ping would be answered."""
        return (
            self.client.is_running
            and self.server.is_running
            and not self._network.is_cut(self.client.host, self.server.host)
            and not self._network.is_cut(self.server.host, self.client.host)
        )

    def suspect(self) -> None:
        """Begin to miss pings, or stop to; called whenever that may have changed."""
        self._suspicion += 1
        if self.is_responsive:
            return
        suspicion, world = self._suspicion, self._network.world
        early_us = world.chance.randrange(limits.KEEPALIVE_TIME_MS * US_PER_MS)
        world.at(KEEPALIVE_US - early_us, lambda: self._give_up(suspicion))

    def _give_up(self, suspicion: int) -> None:
        if suspicion == self._suspicion and not self.is_responsive:
            self.drop(self.client)
            self.drop(self.server)

    def drop(self, end: Process) -> None:
        """Let one end learn that the connection is gone; a stopped one learns it when it goes on."""
        if not self.is_up[end]:
            return
        self.is_up[end] = False
        calls = self.client_calls if end is self.client else self.server_calls
        if end.is_alive:
            for call in list(calls.values()):
                end.loop.call_soon(call.broke)
        calls.clear()
        if not any(self.is_up.values()):
            self._network.connections.pop(self, None)

    def reset(self, by: Process) -> None:
        """One end is gone, and its machine says so to the other."""
        self.is_up[by] = False
        other = self.other(by)
        world = self._network.world

        def arrive() -> None:
            if self._network.is_cut(by.host, other.host):
                self.suspect()
            else:
                self.drop(other)

        world.at(self._network.latency_us(), arrive)


@dataclass(eq=False)
class Network:
    """All paths, servers and connections.

    Attributes:
        slow_us: Added to every latency at most, while the network is slow.
        window_bytes: How far a sender may run ahead of a reader in one call.
        repeats: Chance that a unary request arrives twice, as somebody between may send it again.
    """

    world: World
    slow_us: int = 0
    window_bytes: int = limits.STREAM_WINDOW_BYTES
    repeats: float = 0.0
    listeners: dict[str, Listener] = field(default_factory=dict)
    connections: dict[Connection, None] = field(default_factory=dict)
    _cuts: dict[tuple[str, str], int] = field(default_factory=dict)
    _ports: int = 50_000

    def latency_us(self) -> int:
        """Draw how long something is under way."""
        chance = self.world.chance
        latency_us = chance.randint(*_LATENCY_US)
        return latency_us + chance.randrange(self.slow_us) if self.slow_us else latency_us

    def new_port(self) -> int:
        """Return a port that nobody has."""
        self._ports += 1
        return self._ports

    def is_cut(self, sender: str, receiver: str) -> bool:
        """Whether what one machine sends does not reach another."""
        return self._cuts.get((sender, receiver), 0) > 0

    def cut(self, sender: str, receiver: str) -> Callable[[], None]:
        """Let nothing of one machine reach another; returns what heals it."""
        key = (sender, receiver)
        self._cuts[key] = self._cuts.get(key, 0) + 1
        self.look_again()

        def heal() -> None:
            self._cuts[key] -= 1
            for connection in list(self.connections):
                connection.release()
            self.look_again()

        return heal

    def look_again(self) -> None:
        """Let every connection find out whether it still can be used."""
        for connection in list(self.connections):
            connection.suspect()

    def listen(self, address: str, listener: Listener) -> None:
        """Let a server be found."""
        self.listeners[address] = listener

    def close(self, address: str, listener: Listener) -> None:
        """Let a server be found no more."""
        if self.listeners.get(address) is listener:
            del self.listeners[address]

    def gone(self, process: Process, *, silently: bool) -> None:
        """A process ended: its servers and connections are gone; `silently`: with its machine."""
        for address, listener in list(self.listeners.items()):
            if listener.process is process:
                del self.listeners[address]
        for connection in list(self.connections):
            if process in connection.is_up:
                if silently:
                    connection.suspect()
                else:
                    connection.reset(process)

    def connect(
        self, client: Process, address: str, then: Callable[[Connection | None], None]
    ) -> None:
        """Try to connect; `then` is called in the client's turn, with None if it could not be done."""
        begun_us = self.world.now_us

        def answer(connection: Connection | None) -> None:
            client.loop.call_soon(then, connection)

        def attempt() -> None:
            listener = self.listeners.get(address)
            if listener is None:
                answer(None)
                return
            server = listener.process
            ways = ((client.host, server.host), (server.host, client.host))
            if not server.is_running or any(self.is_cut(*way) for way in ways):
                if self.world.now_us - begun_us > CONNECT_TIMEOUT_US:
                    answer(None)
                else:
                    self.world.at(200 * US_PER_MS, attempt)
                return
            connection = Connection(self, client, listener)
            self.connections[connection] = None
            answer(connection)

        self.world.at(2 * self.latency_us(), attempt)
