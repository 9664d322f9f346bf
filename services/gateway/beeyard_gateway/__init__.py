"""The gateway: HTTP in front of the queen. It keeps nothing, so any number of them may run, and any may die."""
