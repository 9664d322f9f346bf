"""Recorded traffic, in the formats in which the public traces come: when a request came and how long it was.

Read here: the Azure LLM inference trace of 2023 (CSV: TIMESTAMP, ContextTokens, GeneratedTokens) and Mooncake (JSON
lines: timestamp in milliseconds, input_length, output_length). Neither says who asked, how urgently or until when;
what a load adds to them is drawn from its seed, and the report says so.
"""

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Final, NamedTuple

from beeyard_core import limits

from beeyard_queen.simulator.shapes import ScenarioInvalid, read_file

_AZURE_HEAD: Final = "TIMESTAMP,ContextTokens,GeneratedTokens"
#: Digits of a second that Python's own reader takes; the trace has one more.
_MICROSECONDS: Final = len("2023-11-16 18:17:03.979960")
#: Parts of the public traces that come with Beeyard, with their licences beside them.
SAMPLES: Final = {
    "azure-2023-code": "azure_2023_code.csv",
    "azure-2023-conv": "azure_2023_conv.csv",
    "mooncake": "mooncake_synthetic.jsonl",
}


class Request(NamedTuple):
    """One request of a trace; `at_ms` counts from the first."""

    at_ms: int
    prompt_tokens: int
    answer_tokens: int


def read_trace(name: str) -> list[Request]:
    """Return the requests of a trace, in the order of time.

    Args:
        name: The name of a sample that comes with Beeyard, or a file.

    Raises:
        ScenarioInvalid: There is no such file, or it is no trace that can be read.
    """
    sample = SAMPLES.get(name)
    if sample is not None:
        content = (files("beeyard_queen.simulator") / "samples" / sample).read_bytes()
    else:
        content = read_file(Path(name), limits.TRACE_FILE_BYTES_MAX)
    return parse_trace(content, name)


def parse_trace(content: bytes, file: str) -> list[Request]:
    """Return the requests in a trace's text, in the order of time.

    Raises:
        ScenarioInvalid: It is no trace of a format that is read here, or broken off; with the line.
    """
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ScenarioInvalid("the text is not UTF-8", file) from None
    rows = ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    first = next(rows, None)
    if first is None:
        raise ScenarioInvalid("the trace is empty", file)
    if first[1].strip() == _AZURE_HEAD:
        requests = _parsed(rows, _azure, file)
    elif first[1].lstrip().startswith("{"):
        requests = _parsed(iter([first, *rows]), _mooncake, file)
    else:
        message = f"neither the header {_AZURE_HEAD} nor a line of JSON"
        raise ScenarioInvalid(message, file, first[0])
    if not requests:
        raise ScenarioInvalid("the trace has no requests", file)
    requests.sort(key=lambda request: request.at_ms)
    begin = requests[0].at_ms
    return [request._replace(at_ms=request.at_ms - begin) for request in requests]


def _parsed(
    rows: Iterator[tuple[int, str]], parse: Callable[[str], tuple[int, int, int]], file: str
) -> list[Request]:
    requests: list[Request] = []
    for number, line in rows:
        if len(line) > limits.TRACE_LINE_BYTES_MAX:
            raise ScenarioInvalid("the line is too long", file, number)
        try:
            at_ms, prompt, answer = parse(line)
        except (ValueError, KeyError, TypeError, RecursionError) as fault:
            raise ScenarioInvalid(f"not a request: {_why(fault)}", file, number) from None
        if not (0 <= prompt <= limits.SIMULATED_TOKENS_MAX >= answer >= 0):
            message = f"token counts are 0 to {limits.SIMULATED_TOKENS_MAX}"
            raise ScenarioInvalid(message, file, number)
        if len(requests) >= limits.SIMULATED_JOBS_MAX:
            message = f"more than {limits.SIMULATED_JOBS_MAX} requests"
            raise ScenarioInvalid(message, file, number)
        # A prompt of no tokens, or an answer of none, is one that a worker still has to begin.
        requests.append(Request(at_ms, max(prompt, 1), max(answer, 1)))
    return requests


def _why(fault: Exception) -> str:
    if isinstance(fault, KeyError):
        return f"{fault.args[0]} is missing"
    return "the line is broken off or of another format"


def _azure(line: str) -> tuple[int, int, int]:
    stamp, prompt, answer = line.split(",")
    at = datetime.fromisoformat(stamp.strip()[:_MICROSECONDS])
    seconds = (at - datetime(2023, 1, 1)).total_seconds()  # noqa: DTZ001  the trace names no zone; only gaps count
    return round(seconds * 1_000), int(prompt), int(answer)


def _mooncake(line: str) -> tuple[int, int, int]:
    told = json.loads(line)
    at_ms, prompt, answer = told["timestamp"], told["input_length"], told["output_length"]
    if not all(type(value) is int for value in (at_ms, prompt, answer)) or at_ms < 0:
        raise ValueError("whole numbers expected")
    return at_ms, prompt, answer
