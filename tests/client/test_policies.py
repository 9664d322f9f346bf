"""The client's methods about policies, against a real desk."""

from collections.abc import AsyncIterator

import grpc
import pytest
from beeyard_client import BeeyardClient, BeeyardError, LinkBrokenError, PolicyState
from beeyard_queen.policy.in_process import platform_source
from beeyard_queen.policy.starters import templates

from tests.client.conftest import CountedPauses
from tests.support.policy_service import RULES, WAITS, Service, policy_service


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with policy_service() as service:
        yield service


@pytest.fixture
async def policies(service: Service, pauses: CountedPauses) -> AsyncIterator[BeeyardClient]:
    async with BeeyardClient(service.address, pauses=pauses) as client:
        yield client


async def test_a_policy_is_deployed_listed_shown_and_rolled_back(policies: BeeyardClient) -> None:
    first = await policies.deploy_policy(WAITS % "a", name="first", note="to try", author="ada")
    assert (first.label, first.state, first.author) == ("first@1", PolicyState.ACTIVE, "ada")
    assert first.create_time == first.activate_time
    second = await policies.deploy_policy(RULES, "yaml", expected_active_version=1)
    assert second.source is not None
    assert (second.label, second.source.language) == ("careful@2", "yaml")
    listed = [one async for one in policies.policy_versions(page_size=1)]
    assert [(one.label, one.state.value, one.source) for one in listed] == [
        ("careful@2", "ACTIVE", None),
        ("first@1", "INACTIVE", None),
    ]
    assert [one.version async for one in policies.policy_versions(name="first")] == [1]
    assert (await policies.policy_version()).version == 2
    assert (await policies.policy_version(1)).note == "to try"
    assert (await policies.rollback_policy()).version == 1
    assert (await policies.rollback_policy(0)).label == "platform@0"


async def test_an_invalid_policy_tells_line_and_column(policies: BeeyardClient) -> None:
    with pytest.raises(BeeyardError) as caught:
        await policies.deploy_policy(RULES.replace("rules:", "rulez:"), "yaml")
    error = caught.value
    assert (error.reason, error.code) == ("POLICY_INVALID", grpc.StatusCode.INVALID_ARGUMENT)
    assert (error.metadata["line"], error.metadata["column"]) == ("3", "3")
    assert error.metadata["rule"] == "scheduler.rulez"
    found = await policies.validate_policy(RULES.replace("rules:", "rulez:"), "yaml")
    assert not found.is_valid
    assert [(one.line, one.column, one.field) for one in found.problems] == [
        (3, 3, "scheduler.rulez")
    ]


async def test_a_valid_policy_is_measured_and_compiled(policies: BeeyardClient) -> None:
    found = await policies.validate_policy(RULES, "yaml")
    assert found.is_valid
    assert found.states_tried > 10
    compiled = await policies.compile_policy(RULES)
    assert (compiled.lua, compiled.problems) == (found.lua, ())
    wrong = await policies.compile_policy("{")
    assert (wrong.lua, len(wrong.problems)) == ("", 1)


async def test_sources_to_start_from(policies: BeeyardClient) -> None:
    assert (await policies.platform_source()).text == platform_source()
    told = await policies.templates()
    assert [(one.name, one.source.text) for one in told] == [
        (one.name, one.source) for one in templates()
    ]


async def test_what_no_message_can_carry_is_refused_at_once(policies: BeeyardClient) -> None:
    with pytest.raises(BeeyardError) as caught:
        await policies.deploy_policy("\ud800")
    assert (caught.value.reason, caught.value.field) == ("INVALID_REQUEST", "source.text")
    with pytest.raises(BeeyardError) as caught:
        await policies.rollback_policy(2**63)
    assert (caught.value.reason, caught.value.field) == ("INVALID_REQUEST", "version")
    with pytest.raises(BeeyardError) as caught:
        await policies.compile_policy("x", "toml")  # type: ignore[arg-type]
    assert caught.value.field == "source.language"


async def test_only_a_rollback_to_a_number_is_tried_again(pauses: CountedPauses) -> None:
    async with BeeyardClient("127.0.0.1:1", pauses=pauses) as client:
        with pytest.raises(LinkBrokenError):
            await client.rollback_policy()
        assert pauses.waits == []
        with pytest.raises(LinkBrokenError):
            await client.rollback_policy(1)
        assert pauses.waits
