"""A command that asks a service whether it takes calls."""
