"""The policy engine: scheduling as a program of the operator's own, run where it can do no harm."""
