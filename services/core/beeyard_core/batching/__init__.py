"""What a worker computes in each step of its engine: which sequences, how much of each prompt, in which KV memory.

Pure, like all of the core: time comes in as measured milliseconds, and the same sequences and measurements always give
the same plan. `planner.BatchPlanner` is the whole of it; an engine asks it for a `StepPlan`, executes that, and says
how long it took.
"""
