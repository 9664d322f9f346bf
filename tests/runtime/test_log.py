"""Logs are one JSON object a line on stderr, whoever speaks, and stdout stays free."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
import structlog
from beeyard_runtime.log import get_log, setup_log


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level, structlog.get_config())
    yield
    root.handlers[:], level, config = before
    root.setLevel(level)
    structlog.configure(**config)


def test_a_line_is_an_event_with_fields(capfd: pytest.CaptureFixture[str]) -> None:
    setup_log("queen", fmt="json", level="info")
    log = get_log("loop")
    log.debug("too_quiet")
    log.info("job_queued", job_id="job-1")
    out, err = capfd.readouterr()
    line = json.loads(err)
    assert out == ""
    assert line.pop("timestamp")
    assert line == {
        "event": "job_queued",
        "job_id": "job-1",
        "level": "info",
        "room": "loop",
        "service": "queen",
    }


def _break(prompt: str) -> None:
    if prompt:
        raise RuntimeError("boom")


def test_a_traceback_is_text_without_local_variables(capfd: pytest.CaptureFixture[str]) -> None:
    setup_log("queen", fmt="json", level="info")
    prompt = "the secret prompt"
    try:
        _break(prompt)
    except RuntimeError:
        get_log("loop").exception("broke")
    err = capfd.readouterr().err
    assert "RuntimeError: boom" in json.loads(err)["exception"]
    assert prompt not in err


def test_other_libraries_speak_the_same_format(capfd: pytest.CaptureFixture[str]) -> None:
    setup_log("worker", fmt="json", level="debug")
    logging.getLogger("grpc").warning("odd %s", "thing")
    logging.getLogger("grpc").debug("may quote what it carries")
    (line,) = map(json.loads, capfd.readouterr().err.splitlines())
    assert (line["event"], line["logger"], line["service"]) == ("odd thing", "grpc", "worker")


def test_requests_to_other_servers_are_not_told_with_their_addresses(
    capfd: pytest.CaptureFixture[str],
) -> None:
    setup_log("worker", fmt="json", level="debug")
    logging.getLogger("httpx").info(
        'HTTP Request: POST %s "%s"', "http://me:password@gpu1/", "200 OK"
    )
    logging.getLogger("httpx").warning("odd thing")
    (line,) = map(json.loads, capfd.readouterr().err.splitlines())
    assert line["event"] == "odd thing"


def test_the_console_form_names_the_event(capfd: pytest.CaptureFixture[str]) -> None:
    setup_log("worker", fmt="console", level="warning")
    get_log("slots").info("quiet")
    get_log("slots").warning("slot_lost", slot=3)
    out, err = capfd.readouterr()
    assert out == ""
    assert "slot_lost" in err
    assert "quiet" not in err


def test_a_level_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match="none of debug, info, warning, error"):
        setup_log("queen", fmt="json", level="loud")


def test_a_service_starts_without_rich_and_whoever_wants_it_gets_it() -> None:
    code = "import sys, beeyard_runtime.log; print('rich' in sys.modules); import rich.console"
    command = [sys.executable, "-c", code]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert told == "False\n"
