"""What a worker can be told, on the command line, in `beeyard.toml` and by `BEEYARD_WORKER_*`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from beeyard_core import limits
from beeyard_runtime.config import DialingSettings, load
from beeyard_runtime.flags import parse_flags
from pydantic import Field, SecretStr, model_validator

Extension = Annotated[str, Field(pattern=r"^[a-z0-9_.:-]+$", max_length=limits.ID_BYTES_MAX)]


class WorkerSettings(DialingSettings):
    """One worker: one model on one device.

    Attributes:
        worker_id: The name under which the fleet knows it.
        queen: HOST:PORT of the queen; empty: a lone worker, spoken to directly.
        pool_id: The host that it runs on.
        listen: HOST:PORT of its EngineService; port 0 takes a free one.
        admin_listen: The same for channelz, health and reflection; port 0 takes a free one.
        metrics_listen: `host:port` where Prometheus reads figures, under /metrics; port 0 takes a free one, an empty
            text means not at all.
        engine: What generates the tokens.
        model: The name under which jobs ask for the model.
        model_source: A GGUF file or package:NAME for `llamacpp`; URL#UPSTREAM-MODEL for `openai_http`; tokens a
            second of each slot for `synthetic`, 0 for as fast as they are taken, with ,load=SECONDS for one that
            pretends to load, or steps:base=MS,... for one that computes step by step.
        step_tokens: Tokens of one answer in each step of the synthetic engine without a rate; 0: the engine's own.
        device: `cpu`, or a GPU's UUID.
        slots: Answers at once.
        context_tokens: Longest prompt plus answer of one job; 0: the engine's own.
        kv_tokens: Tokens of KV memory that all slots share; 0: slots times context.
        kv_promised_percent: KV tokens promised to jobs, in percent of what there is. Above 100 relies on answers that
            end early; where they do not, an engine that plans its steps computes the youngest again later.
        step_target_ms: What one step of the engine should take at most, milliseconds: the time between two tokens of
            one answer. Opens as many slots as keep to it, `slots` at most; 0: all, whatever a step takes.
        prefill_tokens_max: Prompt tokens of one step of the engine at most; 0: the engine's own.
        prefix_cache: Whether the embedded engine keeps what it computed of prompts for those after them: `auto` does
            with more than one slot, where answers depend on their neighbours anyway; with `on` those of one slot
            depend on earlier prompts, too.
        extensions: What else jobs may require of it, a word each, beside what the engine says of itself.
        threads: Threads of the embedded engine; 0: half of the cores.
        supervised: Whether a pool manager started it: it ends itself when none calls any more.
        supervisor_grace_ms: For how long none may call, milliseconds.
        drain_grace_ms: How long running work may go on after SIGTERM, milliseconds.
        package_cache: Folder for models that come as packages; None: below the user's cache folder.
        upstream_command: Starts the server of `openai_http`; empty: it runs already.
        upstream_strict: Whether the server of `openai_http` refuses what is not in OpenAI's API, as OpenAI's own and a
            gateway of ours do: then it is not sent, so that top_k has no effect.
        api_key: For the server of `openai_http`. Not a flag: command lines are seen by everybody.
        state_file: Where the worker says that it runs; its folder must exist.
    """

    worker_id: str = Field(min_length=1, max_length=limits.ID_BYTES_MAX)
    queen: str = "127.0.0.1:7700"
    pool_id: str = Field(default="", max_length=limits.ID_BYTES_MAX)
    listen: str = "127.0.0.1:0"
    admin_listen: str = "127.0.0.1:0"
    metrics_listen: str = "127.0.0.1:0"
    engine: Literal["llamacpp", "openai_http", "synthetic"]
    model: str = Field(min_length=1, max_length=limits.ID_BYTES_MAX)
    model_source: str = ""
    step_tokens: int = Field(default=0, ge=0)
    device: str = Field(default="cpu", min_length=1, max_length=limits.ID_BYTES_MAX)
    slots: int = Field(default=1, ge=1, le=limits.SLOTS_MAX)
    context_tokens: int = Field(default=0, ge=0)
    kv_tokens: int = Field(default=0, ge=0)
    kv_promised_percent: int = Field(default=100, ge=100, le=limits.KV_PROMISED_PERCENT_MAX)
    step_target_ms: int = Field(default=0, ge=0, le=limits.BATCH_STEP_TARGET_MS_MAX)
    prefill_tokens_max: int = Field(default=0, ge=0, le=limits.BATCH_PREFILL_TOKENS_LIMIT)
    prefix_cache: Literal["auto", "on", "off"] = "auto"
    extensions: list[Extension] = Field(default=[], max_length=limits.EXTENSIONS_MAX // 2)
    threads: int = Field(default=0, ge=0)
    supervised: bool = False
    supervisor_grace_ms: int = Field(default=limits.SUPERVISOR_GRACE_MS, ge=1)
    drain_grace_ms: int = Field(default=limits.DRAIN_GRACE_MS, ge=1)
    state_file: Path | None = None
    package_cache: Path | None = None
    upstream_command: str = ""
    upstream_strict: bool = False
    api_key: SecretStr = SecretStr("")

    @model_validator(mode="after")
    def _source_fits_engine(self) -> Self:
        if self.engine == "synthetic":
            rate, _, load_s = self.model_source.partition(",load=")
            is_rate = _is_rate(rate or "0") and _is_rate(load_s or "0")
            if not (is_rate or self.model_source.startswith("steps:")):
                raise ValueError(
                    "model_source must be tokens a second, 0 or more, maybe with ,load=SECONDS, "
                    "or steps:..., for synthetic"
                )
        elif not self.model_source:
            raise ValueError(f"model_source must be set for the engine {self.engine}")
        return self


def settings_from(arguments: Sequence[str]) -> WorkerSettings:
    """Return the settings of this process.

    Args:
        arguments: The command line without the program.

    Raises:
        ConfigInvalid: A key is unknown or a value is wrong; the message is one line.
    """
    given = parse_flags(
        WorkerSettings, arguments, role="worker", description="One model on one device."
    )
    return load(WorkerSettings, "worker", overrides=given)


def _is_rate(text: str) -> bool:
    try:
        rate = float(text)
    except ValueError:
        return False
    return 0 <= rate < float("inf")
