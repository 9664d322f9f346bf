"""The limits of placement. They belong to `limits.py`, which holds all, and are apart for its length alone."""

from typing import Final

# Measured speeds, one for each engine, model and device; those that were measured longest ago go first.
SPEEDS_KEPT_MAX: Final = 1_024
# The time of a shorter prompt says little of how fast prompts are computed.
PREFILL_MEASURED_TOKENS_MIN: Final = 64
# A prompt is known by its blocks of so many bytes, taken for so many tokens; what is beyond its first blocks is not.
PREFIX_BLOCK_BYTES: Final = 512
PREFIX_BLOCK_TOKENS: Final = 128
PREFIX_BLOCKS_PER_PROMPT_MAX: Final = 64
# Blocks of the prompts of all jobs that have not ended; of jobs beyond that, nothing is known.
PREFIX_PATH_BLOCKS_MAX: Final = 1 << 19
assert PREFIX_PATH_BLOCKS_MAX >= 1_000 * PREFIX_BLOCKS_PER_PROMPT_MAX
# Blocks that one worker's cache is believed to hold, and all of them together: some 200 bytes each.
PREFIX_BLOCKS_PER_WORKER_MAX: Final = 4_096
PREFIX_BLOCKS_MAX: Final = 1 << 17
# One prompt never pushes all others out of the longest cache.
assert PREFIX_BLOCKS_PER_WORKER_MAX >= 16 * PREFIX_BLOCKS_PER_PROMPT_MAX
# Of a block that more workers hold, policies are not told: a decision looks at every holder that it knows.
PREFIX_HOLDERS_TOLD_MAX: Final = 8
# Workers that whoever watches decisions is told of with each placement, the chosen one among them.
CONSIDERED_TOLD_MAX: Final = 5
# Jobs that policies' mirrors are told of in one turn of the queen: some 20 ms of work, in which nobody else is served.
JOBS_TOLD_AT_ONCE_MAX: Final = 1_000
