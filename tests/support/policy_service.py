"""The policy service over a real desk, and short ways to call it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from beeyard.queen.v1 import policy_service_pb2 as pb
from beeyard.queen.v1 import policy_service_pb2_grpc as rpc
from beeyard_core.state import QueenState
from beeyard_queen.ingress.policy_service import PolicyServicer
from beeyard_queen.ingress.simulating import Simulating
from beeyard_queen.policy.decision_feed import DecisionFeed
from beeyard_queen.policy.desk import Mode
from beeyard_runtime.testing import Served, serving

from tests.support.desk_story import Story, desk_story

LUA, YAML = pb.POLICY_LANGUAGE_LUA, pb.POLICY_LANGUAGE_YAML
WAITS = "function schedule(context) return {action = 'wait', reason = '%s'} end"
RULES = """\
scheduler:
  name: careful
  rules:
    - name: rest
      condition: always
      action: {wait: {duration_ms: 5}}
"""


def source(text: str, language: int = LUA) -> pb.PolicySource:
    return pb.PolicySource(language=language, text=text)  # type: ignore[arg-type]


class Service:
    """The service and what lies behind it."""

    def __init__(self, story: Story, served: Served, feed: DecisionFeed, state: QueenState) -> None:
        self.story = story
        self.feed = feed
        #: What a simulation takes the queen's own fleet from.
        self.state = state
        self.address = served.address
        self.call: rpc.PolicyServiceAsyncStub = rpc.PolicyServiceStub(served.channel)

    async def deploy(self, text: str, language: int = LUA, **options: object) -> pb.PolicyVersion:
        source = pb.PolicySource(language=language, text=text)  # type: ignore[arg-type]
        request = pb.DeployPolicyRequest(source=source, **options)  # type: ignore[arg-type]
        return await self.call.DeployPolicy(request)

    async def active(self) -> pb.PolicyVersion:
        return await self.call.GetPolicyVersion(pb.GetPolicyVersionRequest())

    async def listed(self, **wanted: object) -> list[list[int]]:
        """Return the numbers of all versions, page by page."""
        request = pb.ListPolicyVersionsRequest(**wanted)  # type: ignore[arg-type]
        found = []
        while True:
            page = await self.call.ListPolicyVersions(request)
            found.append([one.version for one in page.versions])
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token


@asynccontextmanager
async def policy_service(mode: Mode = "lab") -> AsyncIterator[Service]:
    async with desk_story(mode) as story:
        feed = DecisionFeed()
        state = QueenState()
        add = rpc.add_PolicyServiceServicer_to_server
        servicer = PolicyServicer(story.desk, feed, Simulating(story.desk, state))
        async with serving((add, servicer)) as served:
            yield Service(story, served, feed, state)
