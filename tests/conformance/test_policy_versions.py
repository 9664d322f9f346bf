"""What every store promises the policy desk: versions by content, numbered, and one of them active."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from beeyard_core import limits
from beeyard_queen.store.memory import MemoryStore
from beeyard_queen.store.port import StoreUnavailable
from beeyard_queen.store.sqlite import SqliteStore
from beeyard_queen.store.versions import Draft, PolicyVersions, VersionFilter, digest_of

Store = MemoryStore | SqliteStore


def draft(text: str, **fields: str) -> Draft:
    told = {"name": "first", "language": "lua", "author": "ada", "note": "to try"} | fields
    return Draft(text=text, **told)  # type: ignore[arg-type]


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "queen.sqlite")
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def versions(store: Store) -> PolicyVersions:
    return store.policies


async def active(versions: PolicyVersions) -> int:
    row = await versions.version(None)
    assert row is not None
    return row.version


async def listed(versions: PolicyVersions, **wanted: object) -> list[int]:
    return [row.version for row in await versions.versions(VersionFilter(**wanted))]  # type: ignore[arg-type]


async def test_at_first_the_platform_policy_decides(versions: PolicyVersions) -> None:
    row = await versions.version(None)
    assert row is not None
    assert (row.version, row.name, row.text, row.is_active) == (0, "platform", "", True)
    assert await versions.version(0) == row
    assert await versions.version(1) is None
    assert await listed(versions) == []
    assert await versions.last_good() is None


async def test_a_deployed_policy_comes_back_whole(versions: PolicyVersions) -> None:
    row = await versions.deploy(draft("-- ü\0🐝", name="büro", author="", note=""), at_ms=7)
    assert row == await versions.version(1) == await versions.version(None)
    assert (row.version, row.name, row.language, row.text) == (1, "büro", "lua", "-- ü\0🐝")
    assert (row.author, row.note, row.created_ms, row.activated_ms) == ("", "", 7, 7)
    assert row.is_active
    assert row.digest == digest_of("lua", "-- ü\0🐝")
    platform = await versions.version(0)
    assert platform is not None
    assert not platform.is_active


async def test_the_same_content_is_one_version(versions: PolicyVersions) -> None:
    first = await versions.deploy(draft("a"), at_ms=1)
    await versions.deploy(draft("b"), at_ms=2)
    again = await versions.deploy(draft("a", name="other", author="bob", note="again"), at_ms=3)
    assert (again.version, again.name, again.author, again.note) == (1, "first", "ada", "to try")
    assert (again.created_ms, again.activated_ms, again.digest) == (1, 3, first.digest)
    assert await active(versions) == 1
    other = await versions.deploy(draft("a", language="yaml"), at_ms=4)
    assert (other.version, other.digest == first.digest) == (3, False)


async def test_numbers_count_up_over_all_policies(versions: PolicyVersions) -> None:
    for number, name in enumerate(("x", "y", "x", "y", "x"), start=1):
        assert (await versions.deploy(draft(str(number), name=name), at_ms=1)).version == number
    assert await listed(versions) == [5, 4, 3, 2, 1]
    assert await listed(versions, name="x") == [5, 3, 1]
    assert await listed(versions, before=4, limit=2) == [3, 2]
    assert await listed(versions, name="none") == []
    assert {row.text for row in await versions.versions(VersionFilter())} == {""}


async def test_activating_clears_a_suspension_and_keeps_the_number(
    versions: PolicyVersions,
) -> None:
    await versions.deploy(draft("a"), at_ms=1)
    await versions.deploy(draft("b"), at_ms=2)
    row = await versions.activate(1, at_ms=3, suspending="killed 3 times in 60 s")
    assert row is not None
    assert (row.version, row.is_active, row.activated_ms) == (1, True, 3)
    fallen = await versions.version(2)
    assert fallen is not None
    assert (fallen.is_active, fallen.suspension) == (False, "killed 3 times in 60 s")
    back = await versions.activate(2, at_ms=4)
    assert back is not None
    assert (back.is_active, back.suspension, back.created_ms) == (True, "", 2)


async def test_what_is_not_there_is_not_activated_and_suspends_nothing(
    versions: PolicyVersions,
) -> None:
    before = await versions.deploy(draft("a"), at_ms=1)
    assert await versions.activate(2, at_ms=2, suspending="no") is None
    assert await versions.activate(-1, at_ms=2) is None
    assert await versions.version(1) == before


async def test_the_last_good_one_is_the_latest_that_was_not_suspended(
    versions: PolicyVersions,
) -> None:
    await versions.deploy(draft("a"), at_ms=1)
    assert await versions.last_good() == 0
    await versions.deploy(draft("b"), at_ms=2)
    assert await versions.last_good() == 1
    await versions.deploy(draft("c"), at_ms=3)
    await versions.activate(1, at_ms=4)
    assert await versions.last_good() == 3
    await versions.activate(2, at_ms=5, suspending="it failed")
    assert await versions.last_good() == 3
    await versions.activate(0, at_ms=6, suspending="it failed")
    assert await versions.last_good() == 3
    await versions.activate(3, at_ms=7)
    assert await versions.last_good() == 0


async def test_the_longest_inactive_is_forgotten_and_no_number_is_given_twice(
    versions: PolicyVersions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "POLICY_VERSIONS_KEPT_MAX", 3)
    for text in "abc":
        await versions.deploy(draft(text), at_ms=1)
    await versions.activate(1, at_ms=2)
    await versions.deploy(draft("d"), at_ms=3)
    assert await listed(versions) == [4, 3, 1]
    await versions.activate(3, at_ms=4)
    await versions.activate(1, at_ms=5)
    # The newest number stays, though others were active after it.
    await versions.deploy(draft("a"), at_ms=6)
    assert (await versions.deploy(draft("e"), at_ms=7)).version == 5
    assert await listed(versions) == [5, 3, 1]
    assert await versions.version(0) is not None


async def test_versions_outlive_the_queen(store: Store) -> None:
    first = await store.policies.deploy(draft("a"), at_ms=1)
    await store.policies.deploy(draft("b"), at_ms=2)
    await store.policies.activate(1, at_ms=3, suspending="it failed")
    before = [await store.policies.version(number) for number in range(3)]
    await store.close()
    with pytest.raises(StoreUnavailable):
        await store.policies.version(None)
    with pytest.raises(StoreUnavailable):
        await store.policies.deploy(draft("c"), at_ms=4)
    await store.open()
    assert [await store.policies.version(number) for number in range(3)] == before
    assert await active(store.policies) == first.version
