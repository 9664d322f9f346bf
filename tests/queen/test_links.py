"""Orders for a worker gather while nobody sends and leave as one message, each lease once in each list."""

import asyncio

import pytest
from beeyard.worker.v1 import worker_service_pb2 as pb
from beeyard_core.ids import Epoch, LeaseId, WorkerId
from beeyard_core.refusal import Refusal, Refused
from beeyard_queen.egress.links import Links, WorkerLink

L1, L2 = LeaseId("lease-1"), LeaseId("lease-2")
E1, E2 = Epoch(1), Epoch(2)


@pytest.fixture
async def links() -> Links:
    return Links()


@pytest.fixture
async def link(links: Links) -> WorkerLink:
    return links.open(WorkerId("w1"))


async def test_orders_gather_into_one_message(link: WorkerLink) -> None:
    link.offer(pb.LeaseOffer(lease_id=L1, epoch=1))
    link.offer(pb.LeaseOffer(lease_id=L2, epoch=2))
    link.revoke(L1, E1)
    link.revoke(L1, E1)
    for index in (5, 9, 7):
        link.acknowledge(L2, E2, index)
    link.ask_again(L2, E2, 9)
    link.ask_again(L2, E2, 3)
    link.drain(1_000)
    orders = await link.orders()
    assert orders is not None
    assert [offer.epoch for offer in orders.offers] == [1, 2]
    assert [revocation.epoch for revocation in orders.revocations] == [1]
    assert [(a.epoch, a.next_index) for a in orders.acknowledgements] == [(2, 9)]
    assert [(r.epoch, r.from_index) for r in orders.resends] == [(2, 3)]
    assert orders.drain.grace_ms == 1_000


async def test_what_was_sent_is_not_sent_again(link: WorkerLink) -> None:
    link.offer(pb.LeaseOffer(lease_id=L1, epoch=1))
    link.drain(1_000)
    await link.orders()
    link.revoke(L1, E1)
    orders = await link.orders()
    assert orders == pb.Orders(revocations=[pb.LeaseRevocation(lease_id=L1, epoch=1)])


async def test_the_end_of_a_lease_is_not_taken_back_by_a_late_acknowledgement(
    link: WorkerLink,
) -> None:
    link.acknowledge(L1, E1, 4)
    link.acknowledge(L1, E1, 0, is_over=True)
    link.acknowledge(L1, E1, 5)
    orders = await link.orders()
    assert orders is not None
    (told,) = orders.acknowledgements
    assert (told.next_index, told.result_committed) == (5, True)


async def test_a_greeting_is_an_empty_message(link: WorkerLink) -> None:
    waiting = asyncio.create_task(link.orders())
    await asyncio.sleep(0)
    assert not waiting.done(), "there is nothing to say"
    link.greet()
    assert await waiting == pb.Orders()


async def test_a_closed_link_ends_whoever_waits(links: Links, link: WorkerLink) -> None:
    waiting = asyncio.create_task(link.orders())
    link.offer(pb.LeaseOffer(lease_id=L1, epoch=1))
    links.close_all()
    assert await waiting is None


async def test_a_second_stream_of_a_worker_closes_the_first(links: Links, link: WorkerLink) -> None:
    second = links.open(WorkerId("w1"))
    assert link.is_closed
    assert second.session > link.session
    # The end of the first says nothing about the second.
    links.drop(link)
    assert links.find(WorkerId("w1")) is second
    links.drop(second)
    assert links.find(WorkerId("w1")) is None


async def test_whoever_waits_for_a_welcome_learns_that_none_comes(
    links: Links, link: WorkerLink
) -> None:
    refused = Refused(reason=Refusal.CAPACITY_GATED, message="full")
    link.close(refused)
    assert await link.welcome is refused
    # Replaced before it was welcome: there is nothing to say, and nothing to wait for.
    second = links.open(WorkerId("w1"))
    links.open(WorkerId("w1"))
    async with asyncio.timeout(1):
        assert await second.welcome is None
