"""The plumbing that every service shares: clocks, configuration, gRPC edges, logs, traces and the process's life.

Nothing here knows what a job or a lease is; whatever decides is in `beeyard_core`.
"""

import os

# gRPC's C core writes lines of its own form to stderr, between ours; what they say reaches us as errors anyway. It
# reads this when `grpc` is first imported, hence here.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
