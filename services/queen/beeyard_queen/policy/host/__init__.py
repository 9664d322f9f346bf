"""What runs inside a sandboxed process: a bare interpreter that knows Lua, MessagePack and nothing of the queen.

Started as `python -I -S .../policy/host`, it is the *zygote*: it prepares one Lua state with the trusted files, gives
up its rights, and forks a *host* for each request, which gives up the rest. It never imports gRPC or a module of
Beeyard outside of this folder, so that forking it is safe and what a host could reach is small.
"""
