"""Small simulated yards for tests, each described by what is unusual about it."""

from beeyard_queen.simulator.arrivals import arrivals
from beeyard_queen.simulator.fleet import read_fleet
from beeyard_queen.simulator.load import Load, Source, Stream, read_load
from beeyard_queen.simulator.policies import Chosen, choose
from beeyard_queen.simulator.scenario import Result, Scenario, simulate
from beeyard_queen.simulator.trace import Request

#: One host, one GPU, one worker with one slot: 100 tokens a second, prompts in no time.
ONE_SLOT = """
models: [{name: m, vram_gib: 10, slots: 1, tokens_per_s: 100, prefill_tokens_per_s: 1000000, load_s: 5}]
hosts: [{name: host, gpus: [{vram_gib: 80}], workers: [{model: m}], models: []}]
"""
TEN_SLOTS = ONE_SLOT.replace("{model: m}", "{model: m, count: 8}").replace("slots: 1,", "slots: 5,")


def scenario(fleet: str, load: str | Load, seed: int = 1) -> Scenario:
    """Return the scenario of a fleet and a load."""
    return Scenario(read_fleet(fleet), load if isinstance(load, Load) else read_load(load), seed)


def simulated(
    fleet: str, load: str | Load, policy: str | Chosen = "platform", seed: int = 1
) -> Result:
    """Run a policy, by its name or text, and return what was found."""
    chosen = choose(policy) if isinstance(policy, str) else policy
    return simulate(scenario(fleet, load, seed), chosen)


def policy(lua: str, name: str = "test") -> Chosen:
    """Return a policy of a test's own; it decides in a sandbox."""
    return Chosen(name, lua.encode())


def specs(fleet: str, load: str, seed: int = 1) -> list[str]:
    """Return the jobs of a load, one line each."""
    it = scenario(fleet, load, seed)
    return [repr(one) for one in arrivals(it.load, tuple(it.fleet.models), it.seed)]


def streams(*described: str, jobs: int = 1_000) -> str:
    """Return a load of streams, each in YAML's flow style without its braces."""
    lines = "".join(f"  - {{{one}}}\n" for one in described)
    return f"jobs: {jobs}\nstreams:\n{lines}"


def coming(
    *,
    at_s: float,
    answer: int,
    classes: dict[str, float] | None = None,
    tenants: dict[str, float] | None = None,
) -> Source:
    """Return one job that comes at a moment, with a prompt of one token."""
    stream = Stream.model_validate(
        {
            "trace": "one job",
            "from_s": float(at_s),
            "classes": classes or {"normal": 1.0},
            "tenants": tenants or {"default": 1.0},
        }
    )
    return Source(stream, (Request(0, 1, answer),))
