"""The plumbing that every service shares: clocks, configuration, gRPC edges, logs, traces and the process's life.

Nothing here knows what a job or a lease is; whatever decides is in `beeyard_core`.
"""

import os

# gRPC's C core writes lines of its own form to stderr, between ours; what they say reaches us as errors anyway. It
# reads this when `grpc` is first imported, hence here.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# Its handlers of fork run in every child that uvloop starts, before the child becomes what it should be, and crashed
# one in ten of them there.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
