"""Policies: the operator's own scheduling programs, run where they can do no harm.

`host/` is what runs inside a sandboxed process, `lua/` the Lua that is packaged with it, and the modules here are the
queen's side of the border.
"""
