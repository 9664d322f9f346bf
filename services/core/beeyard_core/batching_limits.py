"""The limits of the batch planner. They belong to `limits.py`, which holds all, and are apart for its length alone."""

from typing import Final

# KV memory is given in pages; a smaller one wastes less at each sequence's end and costs more to count.
KV_PAGE_TOKENS: Final = 16
# Prompt tokens of one step: at most, while the cost of a step is not learnt yet, and however full the step is.
BATCH_PREFILL_TOKENS_MAX: Final = 512
BATCH_PREFILL_TOKENS_LIMIT: Final = 1 << 16
BATCH_PREFILL_TOKENS_START: Final = 64
BATCH_PREFILL_TOKENS_MIN: Final = 16
assert BATCH_PREFILL_TOKENS_MIN <= BATCH_PREFILL_TOKENS_START <= BATCH_PREFILL_TOKENS_MAX
assert BATCH_PREFILL_TOKENS_MAX <= BATCH_PREFILL_TOKENS_LIMIT
# Of a step's target, what decoding leaves for prompts when the number of slots is chosen.
BATCH_PREFILL_SHARE: Final = 0.25
# Steps that compute nothing of a sequence before it goes ahead of every class.
BATCH_PASSED_OVER_MAX: Final = 256
# The cost of a step is relied on after so many steps, if it is not off by more than this share.
BATCH_LEARNT_STEPS: Final = 16
BATCH_STEP_ERROR_MAX: Final = 0.3
# Slots that are open at the start where a target is set, and the steps between two changes of their number.
BATCH_SLOTS_START: Final = 4
BATCH_REVIEW_STEPS: Final = 32
# A first number of slots is chosen when the cost may be learnt.
assert BATCH_REVIEW_STEPS >= BATCH_LEARNT_STEPS
KV_PROMISED_PERCENT_MAX: Final = 1_000
# Tokens of one sequence that its reader may be behind before nothing more is made of it.
BATCH_UNREAD_TOKENS_MAX: Final = 64
BATCH_STEP_TARGET_MS_MAX: Final = 60_000
