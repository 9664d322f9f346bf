"""The plumbing that every service shares: clocks, configuration, gRPC edges, logs, traces and the process's life.

Nothing here knows what a job or a lease is; whatever decides is in `beeyard_core`.
"""
