"""The whole system in one process, on one made-up clock and network, with every fault that a seed draws.

`world` has the clock and the processes, `event_loop` runs the services' own asyncio code on it, `rpc_client`,
`rpc_server` and `network` stand where gRPC stood, `disk` where the store's file was, `outside` and `machines` where
time, chance and the host were. `story` draws from a seed what happens, `cluster` starts the services, `customers` use
them, `run` lets it happen, `ledger` checks what must hold meanwhile. See docs/simulation-testing.md.
"""
