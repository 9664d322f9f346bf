"""The figure of the simulator: jobs it simulates a second, beside a SimPy model of the bare queue in the same run.

The control is M/M/c, the least that can be called a simulation of such a fleet: arrivals, one line, as many servers as
there are slots, a service time. The subject does the same with a queen's core, its policy and a fleet round it.
"""

import random
import time

import simpy
from beeyard_queen.simulator.fleet import read_fleet
from beeyard_queen.simulator.load import read_load
from beeyard_queen.simulator.policies import PLATFORM, choose
from beeyard_queen.simulator.scenario import Scenario
from beeyard_queen.simulator.scenario import simulate as run

from benchmarks.measure import Figure, Sample, compare

JOBS = 60_000
WORKERS = 100
SLOTS = 32
#: Of the slots, at the mean rate.
LOAD = 0.8
ANSWER_TOKENS = 100
TOKENS_PER_S = 100.0
JOBS_PER_S_MIN = 20_000

_FLEET = f"""
models:
  - {{name: m, vram_gib: 20, slots: {SLOTS}, tokens_per_s: {TOKENS_PER_S}, prefill_tokens_per_s: 50000}}
hosts:
  - {{name: host, count: {WORKERS // 4}, gpus: [{{vram_gib: 80}}], workers: [{{model: m, count: 4}}]}}
"""
_RATE = LOAD * WORKERS * SLOTS * TOKENS_PER_S / ANSWER_TOKENS
_LOAD = f"""
jobs: {JOBS}
streams:
  - rate_per_s: {_RATE}
    classes: {{interactive: 2, normal: 2, batch: 1}}
    tenants: {{ada: 1, bob: 1, eve: 1}}
    prompt_tokens: {{mean: 256}}
    answer_tokens: {{mean: {ANSWER_TOKENS}, shape: exponential}}
"""


async def _subject() -> Sample:
    scenario = Scenario(read_fleet(_FLEET), read_load(_LOAD), seed=1)
    began, began_cpu = time.perf_counter(), time.process_time()
    result = run(scenario, choose(PLATFORM))
    sample = Sample(
        JOBS, time.perf_counter() - began, {"simulator": time.process_time() - began_cpu}
    )
    assert result.report.everything.completed == JOBS
    return sample


async def _control() -> Sample:
    began, began_cpu = time.perf_counter(), time.process_time()
    ended = simpy_mmc(JOBS, WORKERS * SLOTS, _RATE, TOKENS_PER_S / ANSWER_TOKENS)
    sample = Sample(JOBS, time.perf_counter() - began, {"simpy": time.process_time() - began_cpu})
    assert ended == JOBS
    return sample


def simpy_mmc(jobs: int, servers: int, arrivals_per_s: float, served_per_s: float) -> int:
    """Simulate M/M/c; return how many jobs ended."""
    chance, environment = random.Random(1), simpy.Environment()
    line, waits = simpy.Resource(environment, servers), list[float]()

    def job() -> simpy.events.ProcessGenerator:
        came = environment.now
        with line.request() as turn:
            yield turn
            waits.append(environment.now - came)
            yield environment.timeout(chance.expovariate(served_per_s))

    def source() -> simpy.events.ProcessGenerator:
        for _ in range(jobs):
            yield environment.timeout(chance.expovariate(arrivals_per_s))
            environment.process(job())

    environment.process(source())
    environment.run()
    return len(waits)


async def measure(rounds: int) -> Figure:
    """Simulated jobs a second on the platform policy with 100 workers, over SimPy's."""
    figure = Figure("simulator", "jobs/s", f"SimPy M/M/c, c = {WORKERS * SLOTS}", 1.0)
    figure = await compare(figure, _subject, _control, rounds=rounds)
    figure.met = figure.met and figure.value >= JOBS_PER_S_MIN
    wanted = f"at least {JOBS_PER_S_MIN:,} jobs/s wanted besides the ratio"
    figure.note = f"{wanted}; {figure.note}" if figure.note else wanted
    return figure
