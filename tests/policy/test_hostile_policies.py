"""Policies that mean harm, each run in a real host on the sample world: the worked examples and cases of our own.

The data say what each must come to. `harmless` is a decision. Where the machine's speed decides which limit comes
first, several endings are allowed; a hang, a crash of the test or an accepted escape never is.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from beeyard_queen.policy.trial import PLATFORM, Trial, run_trial
from beeyard_queen.policy.try_command import read_scene
from beeyard_queen.policy.zygote import Zygote

from tests.support.hostile_cases import Case, cases
from tests.support.policy_sandbox import running_zygote

HARMLESS_TRIES = 3

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def zygote() -> AsyncIterator[Zygote]:
    async with running_zygote() as running:
        yield running


async def tried(case: Case, zygote: Zygote) -> Trial:
    """Run it once; one that should do no harm again if its time was up.

    A machine that is loaded may hand a harmless policy too little of its time, now and then. One that does harm has its
    time taken every time.
    """
    for _ in range(HARMLESS_TRIES):
        async with asyncio.timeout(10):
            trial = await run_trial(zygote, case.lua.encode(), read_scene(None))
        if trial.verdict == "decision" or case.allowed != ("decision",):
            break
    return trial


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in cases()])
async def test_a_hostile_policy_ends_as_stated(case: Case, zygote: Zygote) -> None:
    trial = await tried(case, zygote)
    assert trial.verdict in case.allowed, trial
    if trial.verdict in {"fallback", "killed"} and trial.elapsed_ms:
        # Somebody decided all the same: the platform policy, or nobody if it never came to a question.
        assert trial.decisions, trial
        assert trial.reason
    assert len(trial.reason) < 1_000
    assert len(trial.logs) <= 50


async def test_the_platform_policy_runs_in_a_host_like_any_other(zygote: Zygote) -> None:
    trial = await run_trial(zygote, PLATFORM, read_scene(None))
    assert (trial.verdict, trial.reason) == ("decision", "")
    assert trial.decisions[0]["action"] == "dispatch"
