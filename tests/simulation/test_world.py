"""The made-up world does what it is trusted with: a kill runs nothing, clocks stand still or go on, cuts hold back."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.simulation.event_loop import pass_ms
from tests.simulation.network import KEEPALIVE_US, Connection, Kind, Network
from tests.simulation.world import US_PER_MS, Broken, Process, World


def process_of(world: World, main: Callable[[], Coroutine[Any, Any, None]]) -> Process:
    process = world.spawn("one", "here")
    process.begin(main)
    return process


def run(world: World, until_ms: int) -> None:
    world.run_until(lambda: False, until_ms)


class Watcher:
    """One end of a call that remembers when something came."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.came: list[tuple[int, object]] = []
        self.is_broken = False

    def take(self, kind: Kind, payload: object) -> None:
        self.came.append((self.process.world.now_ms, payload))

    def broke(self) -> None:
        self.is_broken = True

    def accept(self, connection: Connection, call_id: int, opening: object) -> None:
        connection.server_calls[call_id] = self


def connected(world: World, network: Network) -> tuple[Process, Watcher, Connection]:
    client, server = world.spawn("client", "there"), world.spawn("server", "here")
    watcher = Watcher(server)
    connection = Connection(network, client, watcher)
    network.connections[connection] = None
    connection.send(client, 1, Kind.OPEN, None)
    run(world, 5)
    return client, watcher, connection


def test_a_killed_process_runs_no_finally_block() -> None:
    world, said = World(1), []

    async def main() -> None:
        try:
            await pass_ms(1_000)
        finally:
            said.append("finally")

    process = process_of(world, main)
    run(world, 500)
    process.end()
    run(world, 5_000)
    assert not said


def test_a_stopped_process_finds_that_time_went_on_and_a_suspended_one_does_not() -> None:
    for suspend, expected_ms in ((False, 3_000), (True, 1_000)):
        world = World(1)
        passed: list[float] = []

        async def main(passed: list[float] = passed) -> None:
            loop = asyncio.get_running_loop()
            began = loop.time()
            await pass_ms(1_000)
            passed.append(round((loop.time() - began) * 1_000))

        process = process_of(world, main)
        run(world, 500)
        process.stop(suspend=suspend)
        world.at(2_500 * US_PER_MS, process.go_on)
        run(world, 10_000)
        assert passed == [expected_ms]


def test_what_is_sent_over_a_cut_path_arrives_in_order_when_it_heals() -> None:
    world = World(1)
    network = Network(world)
    client, watcher, connection = connected(world, network)
    heal = network.cut("there", "here")
    for number in range(5):
        connection.send(client, 1, Kind.DATA, number)
    run(world, 2_000)
    assert not watcher.came
    heal()
    run(world, 2_100)
    assert [payload for _, payload in watcher.came] == [0, 1, 2, 3, 4]


def test_a_path_that_stays_cut_breaks_the_connection_within_the_keepalive() -> None:
    world = World(1)
    network = Network(world)
    _, watcher, _ = connected(world, network)
    network.cut("here", "there")
    run(world, 2_000)
    assert not watcher.is_broken
    run(world, 10 + KEEPALIVE_US // US_PER_MS)
    assert watcher.is_broken


def test_what_breaks_is_not_hidden_by_whoever_catches_it() -> None:
    world = World(1)

    async def main() -> None:
        try:
            world.breaks("a promise")
        except AssertionError:
            await pass_ms(1)

    process_of(world, main)
    with pytest.raises(Broken, match="a promise"):
        run(world, 100)


def test_a_process_that_goes_round_in_circles_is_found() -> None:
    world = World(1)

    async def main() -> None:
        while True:
            await pass_ms(0)

    process_of(world, main)
    with pytest.raises(Broken, match="goes on and on"):
        run(world, 100)
