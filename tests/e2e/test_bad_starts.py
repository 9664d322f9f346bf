"""What is wrong from the start: told in one line with what to do, and nothing else dies of it."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard.queen.v1 import inference_service_pb2_grpc as rpc

from tests.support.command import beeyard
from tests.support.raw_calls import Outcome
from tests.support.service import Service, StackFailed
from tests.support.stack import LOOPBACK, Stack
from tests.support.tiny_gguf import tiny_gguf
from tests.support.told import refusal


@contextmanager
def taken_port() -> Iterator[str]:
    """An address that somebody else listens on."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield f"127.0.0.1:{holder.getsockname()[1]}"


async def fault_of(role: str, tmp_path: Path, *flags: str, code: int = 1) -> str:
    """Return the one line with which a service refuses to start."""
    log = tmp_path / f"{role}.log"
    service = Service(role, flags, log=log, env={})
    with pytest.raises(StackFailed):
        await service.start()
    assert service.exit_code == code, service.log_tail()
    written = log.read_text(encoding="utf-8")
    assert "Traceback" not in written, written
    (line,) = [line for line in written.splitlines() if line.startswith("beeyard ")]
    return line


def queen_flags(tmp_path: Path, listen: str = LOOPBACK) -> list[str]:
    return ["--listen", listen, "--admin-listen", LOOPBACK, "--store", str(tmp_path / "q.sqlite")]


def pool_flags(tmp_path: Path, listen: str = LOOPBACK) -> list[str]:
    return ["--listen", listen, "--queen", "", "--work-dir", str(tmp_path / "pool")]


def worker_flags(listen: str = LOOPBACK, source: str = "200") -> list[str]:
    engine = "synthetic" if source == "200" else "llamacpp"
    return [
        *("--worker-id", "w", "--queen", "", "--pool-id", "none", "--listen", listen),
        *("--engine", engine, "--model", "tiny", "--model-source", source, "--device", "cpu"),
    ]


def gateway_flags(listen: str = LOOPBACK) -> list[str]:
    return ["--listen", listen]


@pytest.mark.parametrize("role", ["queen", "pool_manager", "worker", "gateway"])
async def test_a_port_in_use_is_named(tmp_path: Path, role: str) -> None:
    with taken_port() as address:
        flags = {
            "queen": queen_flags(tmp_path, address),
            "pool_manager": pool_flags(tmp_path, address),
            "worker": worker_flags(address),
            "gateway": gateway_flags(address),
        }[role]
        line = await fault_of(role, tmp_path, *flags)
    assert address in line
    assert "port is in use" in line


@pytest.mark.parametrize("role", ["queen", "pool_manager", "worker", "gateway"])
async def test_an_open_address_is_refused(tmp_path: Path, role: str) -> None:
    flags = {
        "queen": queen_flags(tmp_path, "0.0.0.0:0"),
        "pool_manager": pool_flags(tmp_path, "0.0.0.0:0"),
        "worker": worker_flags("0.0.0.0:0"),
        "gateway": gateway_flags("0.0.0.0:0"),
    }[role]
    assert "loopback" in await fault_of(role, tmp_path, *flags)


async def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    # A file in the place of the folder: nobody can write there, not even root.
    (tmp_path / "file").write_text("not a folder")
    store = str(tmp_path / "file" / "q.sqlite")
    line = await fault_of("queen", tmp_path, *queen_flags(tmp_path), "--store", store)
    assert "file" in line
    line = await fault_of("pool_manager", tmp_path, *pool_flags(tmp_path / "file"))
    assert "file" in line


async def test_a_store_that_is_none_is_left_as_it_is(tmp_path: Path) -> None:
    store = tmp_path / "q.sqlite"
    store.write_bytes(b"a letter to the keeper\n" * 100)
    before = store.read_bytes()
    assert "q.sqlite" in await fault_of("queen", tmp_path, *queen_flags(tmp_path))
    assert store.read_bytes() == before


@pytest.mark.parametrize("kind", ["cut", "text", "missing"])
async def test_a_model_file_that_is_none_ends_a_lone_worker(tmp_path: Path, kind: str) -> None:
    log = tmp_path / "worker.log"
    worker = Service("worker", worker_flags(source=str(broken(tmp_path, kind))), log=log, env={})
    # It listens while it loads, so it may have been ready to talk before it found out.
    try:
        await worker.start()
    except StackFailed:
        pass
    assert await worker.wait() == 1, worker.log_tail()
    (line,) = [line for line in log.read_text().splitlines() if line.startswith("beeyard worker:")]
    assert "tiny" in line


def broken(folder: Path, kind: str) -> Path:
    """A file that no engine can load."""
    path = folder / f"{kind}.gguf"
    whole = tiny_gguf().read_bytes()
    match kind:
        case "cut":
            path.write_bytes(whole[: len(whole) // 2])
        case "text":
            path.write_text("This is not a model. " * 1_000)
        case _:
            pass
    return path


async def ask(stack: Stack, model: str) -> Outcome:
    stub = rpc.InferenceServiceStub(stack.channel(stack.queen_address))
    return await refusal(
        stub.Infer(pb.InferRequest(model=model, prompt="bee", max_tokens=3), timeout=60)
    )


@pytest.mark.slow
async def test_models_that_cannot_run_are_refused_and_the_others_run(tmp_path: Path) -> None:
    inventory = tmp_path / "inventory.json"
    device = {"uuid": "cpu", "kind": "cpu", "vram_total_bytes": 1 << 16}
    inventory.write_text(json.dumps({"devices": [device]}))
    models = {
        "tiny": "synthetic:200",
        "cut": str(broken(tmp_path, "cut")),
        "text": str(broken(tmp_path, "text")),
        "large": str(tiny_gguf()),
    }
    flags = ["--inventory", str(inventory)]
    async with Stack(models=models, workers=0, pool_manager_flags=flags) as stack:
        for model in ("cut", "text"):
            told = await ask(stack, model)
            assert told.reason == "MODEL_LOAD_FAILED", told
            assert told.code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.FAILED_PRECONDITION)
            assert str(tmp_path) not in told.message, "no path is told to clients"
            assert "Traceback" not in told.message
        told = await ask(stack, "large")
        assert (told.code, told.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "NO_CAPACITY_INCOMPATIBLE_VRAM",
        )
        assert "65536" in told.message, "it says what there is"
        ended = await beeyard("infer", "bee", "--model", "large", queen=stack.queen_address)
        assert ended.code == 1
        assert len(ended.stderr.splitlines()) == 1, ended.stderr
        ended = await beeyard(
            *("infer", "bee", "--model", "tiny", "--max-tokens", "3"), queen=stack.queen_address
        )
        assert (ended.code, len(ended.stdout.split())) == (0, 3), ended.stderr


async def test_a_queen_without_workers_says_so(tmp_path: Path) -> None:
    log = tmp_path / "queen.log"
    async with Service("queen", queen_flags(tmp_path), log=log, env={}) as queen:
        ended = await beeyard("infer", "bee", queen=queen.address)
        assert ended.code == 1
        (line,) = ended.stderr.splitlines()
        assert "no worker" in line
        assert "start one" in line
        ended = await beeyard("infer", "bee", "--json", queen=queen.address)
        assert ended.code == 1
        assert "NO_WORKERS_AVAILABLE" in ended.stdout + ended.stderr
