"""The queen: admits, queues, schedules and leases. One writer, one durable store, many streams."""
