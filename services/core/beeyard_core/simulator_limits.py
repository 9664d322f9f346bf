"""The limits of the simulator. They belong to `limits.py`, which holds all, and are apart for its length alone."""

from typing import Final

SIMULATED_JOBS_MAX: Final = 1_000_000
SIMULATED_RATE_MAX: Final = 100_000
SIMULATED_STREAMS_MAX: Final = 64
SIMULATED_TENANTS_MAX: Final = 1_000
SIMULATED_MODELS_MAX: Final = 256
SIMULATED_HOSTS_MAX: Final = 1_000
SIMULATED_GPUS_PER_HOST_MAX: Final = 64
SIMULATED_TOKENS_MAX: Final = 1 << 20
SIMULATED_SPEED_MAX: Final = 1_000_000
SIMULATED_LOAD_MS_MAX: Final = 3_600_000
# Virtual time: a week. A simulated beat costs real time, also when nothing happens in it.
SIMULATED_MS_MAX: Final = 7 * 24 * 3_600_000
# After the last arrival, so much virtual time in which no job starts or ends says that none will.
SIMULATION_STALL_MS: Final = 600_000
assert SIMULATION_STALL_MS > SIMULATED_LOAD_MS_MAX // 10
# Points of a curve over time; a longer simulation is sampled more coarsely.
SIMULATION_SAMPLES_MAX: Final = 2_048
TRACE_FILE_BYTES_MAX: Final = 64 << 20
TRACE_LINE_BYTES_MAX: Final = 64 << 10
SIMULATIONS_COMPARED_MAX: Final = 8
# Simulations that a queen runs at once for its callers, each in a process of its own.
SIMULATIONS_AT_ONCE_MAX: Final = 1
SIMULATION_CPU_S_MAX: Final = 600
SIMULATION_MEMORY_BYTES_MAX: Final = 2 << 30
SIMULATION_PROGRESS_MS: Final = 500
SIMULATION_RETRY_MS: Final = 5_000
# A trace travels as one message, with the fleet and the policy beside it.
SIMULATION_TRACE_BYTES_MAX: Final = 3 << 20
SIMULATION_REQUEST_BYTES_MAX: Final = 6 << 20
SIMULATION_LINE_BYTES_MAX: Final = 4 << 20
