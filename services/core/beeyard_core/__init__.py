"""Every decision of Beeyard, as pure functions and tables.

Imports the standard library only, and of that nothing that reads a clock, chance, a file or a socket: time, ids and
random choices are arguments. `step` is the entrance; the modules beside it are the rooms it calls.
"""
