"""What comes into the queen: calls of clients, streams of workers and hosts, and their translation."""
