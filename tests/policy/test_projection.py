"""What the queen tells a policy's mirror, over whole histories: the mirror in Lua holds the queen's own world, and the
platform policy in Lua decides there as its twin does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from beeyard_core.effect import Effect
from beeyard_core.policy.changes import Change
from beeyard_core.policy.intent import Intent
from beeyard_core.policy.projection import Projection, rows_of, world_of
from beeyard_core.policy.schedule import schedule
from beeyard_core.policy.twin import Twin
from beeyard_queen.policy.deltas import deltas_of, digest
from beeyard_queen.policy.in_process import PlatformPolicy

from tests.support.apiary import Apiary
from tests.support.histories import Player, as_often_as_is_fast, in_every_history


@dataclass
class Pair:
    """The policy in Lua and its twin, which must agree."""

    twin: Twin
    lua: PlatformPolicy = field(default_factory=PlatformPolicy)
    label: str = "both@1"
    actions: set[str] = field(default_factory=set)

    def take(self, changes: Sequence[Change]) -> None:
        self.twin.take(changes)
        self.lua.take(changes)

    def decide(self, now_ms: int, seed: int = 0) -> Intent:
        decided = self.lua.decide(now_ms, seed)
        assert decided == self.twin.decide(now_ms, seed)
        self.actions.add(decided.action)
        return decided


@dataclass
class MirroredApiary(Apiary):
    """An apiary whose decisions both policies make."""

    pair: Pair | None = None

    def decide(self, effects: list[Effect]) -> None:
        if self.pair is None or self.pair.twin is not self.twin:
            self.pair = Pair(self.twin)  # a restart begins with empty mirrors
        schedule(self.state, self.projection, self.pair, self.now, effects)
        now_ms = self.now.mono_ms
        self.pair.take(self.projection.drain(self.state, now_ms))
        if self.projection.looked_at_ms == now_ms:
            world = world_of(self.state, now_ms, self.projection)
            assert self.pair.lua.digest() == digest(world)


@as_often_as_is_fast
@in_every_history
def test_the_mirror_holds_the_queens_world_and_both_policies_decide_alike(
    history: list[tuple[int, int]],
) -> None:
    Player(MirroredApiary()).play(history).calm_down()


@as_often_as_is_fast
@in_every_history
def test_a_fresh_mirror_begins_with_what_the_old_one_holds(history: list[tuple[int, int]]) -> None:
    apiary = MirroredApiary()
    Player(apiary).play(history)
    fresh = PlatformPolicy()
    rows = rows_of(apiary.state, apiary.now.mono_ms, apiary.projection)
    fresh.apply(deltas_of(rows))
    told = Projection()
    told.looked_at_ms = apiary.now.mono_ms
    assert fresh.digest() == digest(world_of(apiary.state, apiary.now.mono_ms, apiary.projection))
