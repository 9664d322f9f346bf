"""Policies tried in virtual time: the queen's own core and policy runtime, with a fleet and a load that are made up.

What is real here: admission, the queue, leases, epochs, every check of an intent, the projection that a policy sees,
the platform policy's Lua, and the locked-down process of every other policy with its limits. What is simulated: time,
hosts and their memory, workers and their speed, and clients (`docs/simulator.md`).
"""
