"""The worker: one model on one device, streaming tokens to the queen and to whoever calls it."""
