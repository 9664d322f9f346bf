"""What the queen remembers: the port, and the adapters that pass its conformance suite."""
