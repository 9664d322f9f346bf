"""`beeyard up` with the real services and the synthetic engine: a clean end, and one line for each way it can break."""

import asyncio
import shlex
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import psutil
import pytest
from beeyard_client import BeeyardClient
from openai import AsyncOpenAI, AuthenticationError

from tests.support.command import beeyard, start

pytestmark = pytest.mark.slow

MODEL = ("--model", "synth=synthetic:400")


def _family(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def _service(pid: int, module: str) -> psutil.Process:
    return next(one for one in _family(pid) if module in one.cmdline())


@pytest.fixture
async def stack(
    tmp_path: Path,
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str, list[psutil.Process]]]:
    """A running stack, its queen's address, and its processes; none of them is left afterwards."""
    process = await start(
        "up", "--data-dir", str(tmp_path / "beeyard"), "--queen-port", "0", *MODEL
    )
    address = ""
    assert process.stdout is not None
    while line := (await process.stdout.readline()).decode():
        if line.startswith("queen "):
            address = line.split()[1]
        if line.startswith("stop "):
            break
    family = _family(process.pid) if process.returncode is None else []
    try:
        yield process, address, family
    finally:
        if process.returncode is None:
            process.terminate()
            await process.communicate()
        left = [one for one in family if one.is_running()]
        for one in left:
            one.kill()
    assert not left


async def test_once_runs_one_prompt_and_stops_everything(tmp_path: Path) -> None:
    ended = await beeyard(
        *("up", "--data-dir", str(tmp_path), "--queen-port", "0", *MODEL, "--once", "The honey bee")
    )
    assert ended.code == 0, ended.stderr
    for word in ("queued", "decided", "leased", "first token", "decoded", "trace"):
        assert any(line.startswith(word) for line in ended.stdout.splitlines()), word
    assert "not traced" not in ended.stdout
    with_path = [one for one in psutil.process_iter(["cmdline"]) if _names(one, str(tmp_path))]
    assert with_path == []


def _names(process: psutil.Process, path: str) -> bool:
    return any(path in word for word in process.info["cmdline"] or [])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_stops_everything_and_exits_with_0(
    stack: tuple[asyncio.subprocess.Process, str, list[psutil.Process]], number: signal.Signals
) -> None:
    process, address, family = stack
    assert len(family) == 4
    async with BeeyardClient(address) as client:
        assert await client.infer("hello", max_tokens=4, seed=1).text()
    process.send_signal(number)
    _, stderr = await process.communicate()
    assert process.returncode == 0
    assert stderr == b""
    assert not any(one.is_running() for one in family)


async def test_the_stack_speaks_http(
    stack: tuple[asyncio.subprocess.Process, str, list[psutil.Process]],
) -> None:
    process, _, _ = stack
    gateway = _service(process.pid, "beeyard_gateway")
    (port,) = {c.laddr.port for c in gateway.net_connections() if c.status == psutil.CONN_LISTEN}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        answer = await client.post("/v1/completions", json={"prompt": "hello", "max_tokens": 4})
    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] == 4


async def test_a_secure_stack_says_how_to_get_in_and_lets_nobody_else_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a hive"
    secure = ("up", "--secure", "--data-dir", str(folder), "--queen-port", "0", *MODEL)
    process = await start(*secure)
    assert process.stdout is not None
    told: dict[str, str] = {}
    try:
        while "stop" not in told and (line := (await process.stdout.readline()).decode()):
            name, _, value = line.partition("  ")
            told[name] = value.strip()
        names = _exported(Path(shlex.split(told["get in"])[1]))
        queen = names["BEEYARD_QUEEN"]
        ask = ("infer", "The honey bee", "--max-tokens", "4", "--json")
        answer = await beeyard(*ask, environment=names)
        assert answer.code == 0, answer.stderr
        look = await beeyard(
            "doctor", "--json", environment={**names, "XDG_DATA_HOME": str(tmp_path)}
        )
        findings = {one["check"]: one for one in look.json()["findings"]}  # type: ignore[attr-defined]
        assert findings["certificates"]["level"] == findings["queen"]["level"] == "ok"
        for name, value in names.items():
            monkeypatch.setenv(name, value)
        async with AsyncOpenAI(max_retries=0) as openai:
            completion = await openai.completions.create(model="synth", prompt="bee", max_tokens=4)
        assert completion.usage is not None
        assert completion.usage.completion_tokens == 4
        for missing in ("BEEYARD_TOKEN", "BEEYARD_CA"):
            kept = {key: "" if key == missing else value for key, value in names.items()}
            if missing == "BEEYARD_CA":
                kept |= {"BEEYARD_CERT": "", "BEEYARD_KEY": ""}
            refused = await beeyard("models", queen=queen, environment=kept)
            assert refused.code == 1, missing
        monkeypatch.setenv("OPENAI_API_KEY", "sk-guessed")
        async with AsyncOpenAI(max_retries=0) as openai:
            with pytest.raises(AuthenticationError):
                await openai.models.list()
    finally:
        process.terminate()
        _, stderr = await process.communicate()
    assert (process.returncode, stderr) == (0, b"")
    written = [one for one in (folder / "logs").iterdir() if one.is_file()]
    assert written
    for one in written:
        assert names["BEEYARD_TOKEN"].encode() not in one.read_bytes()


def _exported(path: Path) -> dict[str, str]:
    """Return what a shell would have after reading the file, which is its owner's only."""
    assert path.stat().st_mode & 0o077 == 0
    lines = path.read_text(encoding="utf-8").splitlines()
    pairs = (shlex.split(line)[1].partition("=") for line in lines)
    return {name: value for name, _, value in pairs}


async def test_a_child_that_dies_ends_the_stack_with_its_last_words(
    stack: tuple[asyncio.subprocess.Process, str, list[psutil.Process]],
) -> None:
    process, _, _ = stack
    _service(process.pid, "beeyard_queen").kill()
    _, stderr = await process.communicate()
    assert process.returncode == 1
    assert stderr.decode().splitlines()[0] == "beeyard: the queen ended by SIGKILL; its last words:"


async def test_the_same_seed_gives_the_same_text(
    stack: tuple[asyncio.subprocess.Process, str, list[psutil.Process]],
) -> None:
    _, address, _ = stack
    arguments = ("infer", "The honey bee", "--seed", "7", "--max-tokens", "32", "--json")
    first = (await beeyard(*arguments, queen=address)).json()
    second = (await beeyard(*arguments, queen=address)).json()
    assert first["text"]
    assert first["text"] == second["text"]
    assert first["job_id"] != second["job_id"]
    ended = await beeyard("infer", "x", "--model", "huge", queen=address)
    assert ended.code == 1
    assert "synth" in ended.stderr
    assert ended.stderr.count("\n") == 1
    ended = await beeyard("doctor", queen=address)
    assert "serves at" in ended.stdout


async def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = await beeyard("up", "--data-dir", str(tmp_path), "--queen-port", port, *MODEL)
    assert ended.code == 1
    assert ended.stderr.splitlines()[0].startswith("beeyard: the queen did not start: ")
    assert f"127.0.0.1:{port}" in ended.stderr


async def test_a_model_that_cannot_be_loaded_ends_with_the_reason(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF, but not really")
    ended = await beeyard(
        *("up", "--data-dir", str(tmp_path / "beeyard"), "--queen-port", "0"),
        *("--model", f"broken={broken}"),
    )
    assert ended.code == 1
    assert "broken cannot be loaded" in ended.stderr


async def test_a_model_source_that_is_none_says_so(tmp_path: Path) -> None:
    ended = await beeyard(
        *("up", "--data-dir", str(tmp_path), "--queen-port", "0", "--model", "m=nowhere.gguf")
    )
    assert ended.code == 1
    assert ended.stdout.count("Traceback") == 0
    assert "m" in ended.stderr
