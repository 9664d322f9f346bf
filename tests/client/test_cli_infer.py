"""`beeyard infer` as a process against a scripted queen."""

import asyncio
import os
import pty
import signal
import sys

import grpc
import pytest
from beeyard.queen.v1 import inference_service_pb2, job_pb2

from tests.support import scripted_queen as say
from tests.support.command import beeyard, start
from tests.support.scripted_queen import Hang, Refuse, ScriptedQueen

ANSWER = [
    say.queued(),
    say.started(),
    say.tokens(0, "is", " a"),
    say.tokens(2, " bee"),
    say.finished(),
]


async def test_the_answer_goes_to_stdout_and_nothing_else(
    queen: ScriptedQueen, address: str
) -> None:
    queen.infer.append(ANSWER)
    ended = await beeyard("infer", "The honey bee", queen=address)
    assert (ended.code, ended.stdout, ended.stderr) == (0, "is a bee\n", "")


async def test_options_reach_the_queen(queen: ScriptedQueen, address: str) -> None:
    queen.infer.append(ANSWER)
    options = "--model tiny --max-tokens 5 --seed 7 --temperature 0 --top-p 0.5 --top-k 3"
    more = "--stop END --stop STOP --priority low --tenant t --deadline-ms 9000"
    ended = await beeyard("infer", "hello", *options.split(), *more.split(), queen=address)
    assert ended.code == 0
    (asked,) = queen.asked
    assert isinstance(asked, inference_service_pb2.InferRequest)
    assert (asked.prompt, asked.model, asked.max_tokens, asked.seed) == ("hello", "tiny", 5, 7)
    assert (asked.temperature, asked.top_p, asked.top_k) == (0.0, 0.5, 3)
    assert asked.stop == ["END", "STOP"]
    assert asked.priority == job_pb2.PRIORITY_BATCH
    assert (asked.tenant_id, asked.deadline_ms) == ("t", 9000)


async def test_json_is_one_object_at_the_end(queen: ScriptedQueen, address: str) -> None:
    queen.infer.append(ANSWER)
    ended = await beeyard("infer", "The honey bee", "--json", queen=address)
    assert ended.code == 0
    told = ended.json()
    assert told["text"] == "is a bee"
    assert told["token_ids"] == [0, 1, 2]
    assert told["finish_reason"] == "length"
    assert told["seed"] == 7
    assert told["attempt"] == 1
    assert told["worker_id"] == "w-1"
    assert told["model"] == "tiny"
    assert told["job_id"] == say.JOB_ID
    assert told["usage"] == {
        "prompt_tokens": 4,
        "completion_tokens": 3,
        "cached_prompt_tokens": 0,
    }
    assert isinstance(told["timings"], dict)


async def test_the_prompt_may_come_on_stdin(queen: ScriptedQueen, address: str) -> None:
    queen.infer.append(ANSWER)
    ended = await beeyard("infer", "-", queen=address, stdin="Die Biene fällt\n".encode())
    assert ended.code == 0
    (asked,) = queen.asked
    assert isinstance(asked, inference_service_pb2.InferRequest)
    assert asked.prompt == "Die Biene fällt"


async def test_the_timeline_tells_the_whole_story(queen: ScriptedQueen, address: str) -> None:
    queen.infer.append(ANSWER)
    ended = await beeyard("infer", "hello", "--timeline", queen=address)
    lines = ended.stdout.splitlines()
    assert lines[0] == "is a bee"
    for words in (
        "queued       2.0 ms",
        "decided      by first@1: least loaded of 1",
        "leased       to w-1 on cpu",
        "first token  30 ms after acceptance",
        "decoded      3 tokens at 50.0 tokens/s",
        "trace        0af7651916cd43dd8448eb211c80319c",
    ):
        assert words in lines


async def test_detach_prints_the_job(queen: ScriptedQueen, address: str) -> None:
    ended = await beeyard("infer", "hello", "--detach", queen=address)
    assert (ended.code, ended.stdout) == (0, f"{say.JOB_ID}\n")
    ended = await beeyard("infer", "hello", "--detach", "--json", queen=address)
    assert ended.json()["state"] == "QUEUED"


async def test_an_unknown_model_is_one_line_that_names_the_known_ones(
    queen: ScriptedQueen, address: str
) -> None:
    refuse = Refuse(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", "no model is named huge")
    queen.infer.extend([[refuse]] * 2)
    ended = await beeyard("infer", "hello", "--model", "huge", queen=address)
    assert ended.code == 1
    assert ended.stdout == ""
    assert ended.stderr == "beeyard: no model is named huge; it knows tiny\n"
    ended = await beeyard("infer", "hello", "--model", "huge", "--json", queen=address)
    assert ended.code == 1
    error = ended.json()["error"]
    assert isinstance(error, dict)
    assert error["reason"] == "MODEL_NOT_FOUND"
    assert error["known_models"] == ["tiny"]


async def test_a_failed_job_is_one_line(queen: ScriptedQueen, address: str) -> None:
    queen.infer.append([say.queued(), say.tokens(0, "is"), say.failed()])
    ended = await beeyard("infer", "hello", queen=address)
    assert (ended.code, ended.stdout) == (1, "is\n")
    assert ended.stderr == "beeyard: every attempt broke\n"


async def test_a_number_that_no_message_can_carry_is_one_line(address: str) -> None:
    ended = await beeyard("infer", "hello", "--max-tokens", "99999999999", queen=address)
    assert ended.code == 1
    assert ended.stderr == "beeyard: max_tokens is out of range\n"


async def test_nobody_there_says_how_to_start_a_queen() -> None:
    ended = await beeyard("infer", "hello", queen="127.0.0.1:1")
    assert ended.code == 1
    assert ended.stderr.startswith('beeyard: no queen at 127.0.0.1:1; start one with "beeyard up"')
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_ctrl_c_cancels_the_job(
    queen: ScriptedQueen, address: str, number: signal.Signals
) -> None:
    queen.infer.append([say.queued(), say.started(), say.tokens(0, "is"), Hang()])
    process = await start("infer", "hello", queen=address)
    assert process.stdout is not None
    assert await process.stdout.read(2) == b"is"
    process.send_signal(number)
    _, stderr = await process.communicate()
    assert process.returncode == 1
    assert stderr.decode() == f"beeyard: cancelled job {say.JOB_ID}\n"
    assert queen.kinds_asked() == ["InferRequest", "CancelJobRequest"]


async def test_a_reader_that_goes_away_cancels_the_job(queen: ScriptedQueen, address: str) -> None:
    many = [say.tokens(index, "word " * 1000) for index in range(100)]
    queen.infer.append([say.queued(), say.started(), *many, Hang()])
    command = f"{sys.executable} -m beeyard_client.cli infer hello | head -c 5"
    shell = await asyncio.create_subprocess_shell(
        command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "BEEYARD_QUEEN": address},
    )
    stdout, stderr = await shell.communicate()
    assert stdout == b"word "
    assert b"Traceback" not in stderr
    assert b"BrokenPipe" not in stderr
    assert queen.kinds_asked()[-1] == "CancelJobRequest"


async def test_progress_is_shown_to_a_person(queen: ScriptedQueen, address: str) -> None:
    queen.infer.append([say.queued(2), say.progress("loading_model", 0.45), *ANSWER[1:]])
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "beeyard_client.cli",
        "infer",
        "hello",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "BEEYARD_QUEEN": address, "TERM": "xterm"},
    )
    os.close(theirs)
    stdout, _ = await process.communicate()
    shown = os.read(ours, 65_536).decode(errors="replace")
    os.close(ours)
    assert stdout == b"is a bee\n"
    assert "reading the prompt on w-1" in shown


@pytest.mark.parametrize(
    ("arguments", "stdin", "words"),
    [
        ((b"infer", b"caf\xe9"), b"", "argument 2 is not valid UTF-8"),
        ((b"infer", b"-"), b"caf\xe9", "stdin is not valid UTF-8 (byte 3)"),
        ((b"infer", b"-"), b"a" * ((1 << 20) + 1), "longer than 1048576 bytes"),
    ],
    ids=["argument", "stdin", "too long"],
)
async def test_what_is_no_text_is_one_line_and_a_usage_error(
    arguments: tuple[bytes, ...], stdin: bytes, words: str
) -> None:
    ended = await beeyard(*arguments, stdin=stdin, environment={"PYTHONUTF8": "1"})
    assert ended.code == 2
    assert words in ended.stderr
    assert ended.stderr.count("\n") == 1


async def test_control_characters_of_a_model_do_not_reach_a_terminal(
    queen: ScriptedQueen, address: str
) -> None:
    queen.infer.append([say.queued(), say.tokens(0, "a\x1b[31mb\n"), say.finished()])
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "beeyard_client.cli", "infer", "hello"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=theirs,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "BEEYARD_QUEEN": address},
    )
    os.close(theirs)
    await process.communicate()
    shown = os.read(ours, 65_536)
    os.close(ours)
    assert b"\x1b[31m" not in shown
    assert "a\ufffd[31mb".encode() in shown
