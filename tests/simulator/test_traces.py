"""Recorded traffic: both public formats, the samples that come with Beeyard, and files that are none."""

from importlib.resources import files
from pathlib import Path

import pytest
from beeyard_core import limits
from beeyard_queen.simulator.shapes import ScenarioInvalid
from beeyard_queen.simulator.trace import SAMPLES, Request, parse_trace, read_trace

AZURE = b"""TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319600,3180,8
"""
MOONCAKE = b"""{"timestamp": 40, "input_length": 900, "output_length": 6, "hash_ids": [0, 1]}
{"timestamp": 27, "input_length": 700, "output_length": 0, "hash_ids": [2]}
"""


def test_azure_requests_keep_their_gaps() -> None:
    assert parse_trace(AZURE, "a.csv") == [Request(0, 4808, 10), Request(52, 3180, 8)]


def test_mooncake_requests_come_in_the_order_of_time_with_one_token_at_least() -> None:
    assert parse_trace(MOONCAKE, "m.jsonl") == [Request(0, 700, 1), Request(13, 900, 6)]


@pytest.mark.parametrize(
    ("name", "requests"),
    [("azure-2023-code", 3_000), ("azure-2023-conv", 3_000), ("mooncake", 300)],
)
def test_the_samples_can_be_read(name: str, requests: int) -> None:
    found = read_trace(name)
    assert len(found) == requests
    assert found == sorted(found, key=lambda request: request.at_ms)


def test_every_sample_has_its_licence_and_its_origin_beside_it() -> None:
    folder = files("beeyard_queen.simulator") / "samples"
    readme = (folder / "README.md").read_text(encoding="utf-8")
    for name in SAMPLES.values():
        assert name in readme
    assert "Attribution 4.0" in (folder / "azure_LICENSE_CC-BY-4.0.txt").read_text("utf-8")
    assert "Apache License" in (folder / "mooncake_LICENSE_Apache-2.0.txt").read_text("utf-8")


@pytest.mark.parametrize(
    ("content", "line", "said"),
    [
        (b"", 0, "empty"),
        (b"\n\n", 0, "empty"),
        (b"TIMESTAMP,ContextTokens,GeneratedTokens\n", 0, "no requests"),
        (AZURE + b"2023-11-16 18:17:05.1", 4, "broken off"),
        (AZURE + b"yesterday,1,2\n", 4, "not a request"),
        (AZURE + b"2023-11-16 18:17:05.1,-1,2\n", 4, "token counts"),
        (AZURE + b"2023-11-16 18:17:05.1,1,99999999\n", 4, "token counts"),
        (MOONCAKE + b'{"timestamp": 50, "input_le', 3, "broken off"),
        (MOONCAKE + b'{"timestamp": 50, "input_length": 3}\n', 3, "output_length is missing"),
        (MOONCAKE + b'{"timestamp": "x", "input_length": 3, "output_length": 3}\n', 3, "not a"),
        (MOONCAKE + b"[" * 100_000 + b"\n", 3, "too long"),
        (MOONCAKE + b"[" * 60_000 + b"\n", 3, "not a request"),
        (b"a,b,c\n1,2,3\n", 1, "neither the header"),
        (b"\xff\xfe\x00", 0, "UTF-8"),
    ],
)
def test_what_is_no_trace_is_refused_with_its_line(content: bytes, line: int, said: str) -> None:
    with pytest.raises(ScenarioInvalid) as caught:
        parse_trace(content, "trace")
    assert said in caught.value.message
    assert caught.value.line == line


def test_a_trace_beyond_the_limit_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TRACE_FILE_BYTES_MAX", 10)
    path = tmp_path / "trace.csv"
    path.write_bytes(AZURE)
    with pytest.raises(ScenarioInvalid, match="larger than 10 bytes"):
        read_trace(str(path))


def test_a_trace_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ScenarioInvalid, match="No such file"):
        read_trace(str(tmp_path / "none.csv"))
