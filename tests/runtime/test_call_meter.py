"""How a server's own calls are measured."""

import grpc
import pytest
from beeyard.queen.v1 import lease_service_pb2 as pb
from beeyard.queen.v1 import lease_service_pb2_grpc as rpc
from beeyard_core import limits
from beeyard_runtime.call_meter import CallFigures, CallMeter
from beeyard_runtime.testing import serving


def metered(*calls: tuple[float, bool], at_s: float = 1.0) -> CallMeter:
    meter = CallMeter()
    for took_ms, has_broken in calls:
        meter.begin()
        meter.end(at_s, took_ms, has_broken=has_broken, is_stream=False)
    return meter


def test_where_nothing_was_called_nothing_is_slow_or_broken() -> None:
    assert CallMeter().figures(5.0) == CallFigures(0.0, 0.0, 0)


def test_nineteen_of_twenty_calls_stay_below_the_latency() -> None:
    meter = metered(*((float(ms), False) for ms in range(1, 101)))
    assert meter.figures(2.0).latency_p95_ms == 95.0
    assert metered((7.0, False)).figures(2.0).latency_p95_ms == 7.0


def test_of_few_calls_a_broken_one_is_no_rate() -> None:
    broken = [(1.0, True)] * 5
    few = metered(*broken)
    assert few.figures(2.0).error_percent == 0.0
    enough = metered(*broken, *[(1.0, False)] * (limits.API_CALLS_MIN - 5))
    assert enough.figures(2.0).error_percent == 25.0


def test_what_is_older_than_the_window_is_forgotten() -> None:
    meter = metered(*[(900.0, True)] * 50)
    assert meter.figures(1.0 + limits.API_WINDOW_MS / 1_000 + 0.1) == CallFigures(0.0, 0.0, 0)


def test_no_more_calls_are_kept_than_may() -> None:
    meter = metered(*[(1.0, False)] * (limits.API_CALLS_KEPT_MAX + 10))
    assert len(meter._ended) == limits.API_CALLS_KEPT_MAX


def test_a_stream_counts_while_it_is_open_and_only_if_it_breaks() -> None:
    meter = CallMeter()
    meter.begin()
    meter.begin()
    assert meter.figures(1.0).calls_inflight == 2
    meter.end(1.0, 60_000.0, has_broken=False, is_stream=True)
    assert meter.figures(1.0) == CallFigures(0.0, 0.0, 1)
    for _ in range(limits.API_CALLS_MIN):
        meter.end(1.0, 60_000.0, has_broken=True, is_stream=True)
    assert meter.figures(1.0).error_percent == 100.0
    assert meter.figures(1.0).latency_p95_ms == 0.0


class Broken:
    """The two methods that the test calls; the others are never asked for."""

    def __getattr__(self, name: str) -> object:
        """Answer `GetWork`; everything else is a bug."""
        return self._work if name == "GetWork" else self._bug

    async def _bug(self, request: object, context: object) -> pb.Capacity:
        raise ValueError("a bug")

    async def _work(self, request: object, context: object) -> pb.Work:
        return pb.Work()


async def test_a_server_counts_its_calls_and_the_bugs_in_them() -> None:
    async with serving((rpc.add_LeaseServiceServicer_to_server, Broken())) as served:
        stub = rpc.LeaseServiceStub(served.channel)
        for _ in range(limits.API_CALLS_MIN // 2):
            await stub.GetWork(pb.GetWorkRequest())
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.GetCapacity(pb.GetCapacityRequest())
        figures = served.server.call_figures()
    assert figures.error_percent == 50.0
    assert figures.calls_inflight == 0
    assert figures.latency_p95_ms > 0
