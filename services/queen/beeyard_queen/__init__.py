"""The queen: admits, queues, schedules and leases. One writer, one durable store, many streams."""

import beeyard_runtime as _runtime  # noqa: F401 - quietens gRPC before it is imported
