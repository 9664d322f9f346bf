"""Every limit of the client: deadlines, retries, message sizes.

The client is published alone, so it cannot read the core's limits. Those that both sides must agree on have the same
name here, and a test of the client compares them.
"""

from typing import Final

# --- Shared with the queen ---
PROMPT_BYTES_MAX: Final = 1 << 20
MESSAGE_BYTES_MAX: Final = 4 << 20
LIST_PAGE_MAX: Final = 1_000
RPC_DEADLINE_MS: Final = 10_000
KEEPALIVE_TIME_MS: Final = 5_000
KEEPALIVE_TIMEOUT_MS: Final = 3_000
RECONNECT_MIN_MS: Final = 100
RECONNECT_MAX_MS: Final = 2_000
DEADLINE_MS_MAX: Final = 24 * 3_600_000
# A queen ends a call right behind the job's last event; this long a client waits for that before it cuts the call.
STREAM_END_MS: Final = 1_000

# --- Streams ---
# How far a queen may run ahead of a client that stops reading.
STREAM_AHEAD_BYTES: Final = 64 << 10
# No stream is open for longer than the longest job; a watcher of a longer story opens another.
STREAM_DEADLINE_MS: Final = DEADLINE_MS_MAX
# The queen ends a job at its deadline and says so; this long the client waits for that message.
DEADLINE_MARGIN_MS: Final = 5_000

# --- Patience ---
# How long a request that no queen has answered yet is tried again.
CONNECT_PATIENCE_MS: Final = 2_000
# How long a job without a deadline is looked for after its stream broke. Longer than a restart of the queen takes.
RESUME_PATIENCE_MS: Final = 60_000
assert RESUME_PATIENCE_MS > 10 * RECONNECT_MAX_MS  # noqa: S101  a relation the design relies on
# A queen may ask for a pause; a longer one than this is cut.
RETRY_AFTER_MS_MAX: Final = 30_000

# --- Heavy work ---
# Least time between two requests for a lease, whatever the queen says.
LEASE_POLL_MS_MIN: Final = 100
WORK_TEXT_BYTES_MAX: Final = 1_024

# --- Policies ---
# Trying a policy on a busy queen, and waiting for others that are being tried.
POLICY_DEADLINE_MS: Final = 60_000
# How often a file is looked at that is deployed whenever it changes.
POLICY_WATCH_INTERVAL_MS: Final = 250
POLICY_SOURCE_BYTES_MAX: Final = 256 << 10

# --- The command line ---
# A person at a terminal learns at once that nothing listens.
CLI_CONNECT_PATIENCE_MS: Final = 300
# A service says that it listens within this time of its start; interpreters on a busy machine are slow.
SERVICE_READY_MS: Final = 30_000
# A pool reports and a model loads within this time; the largest models come from slow disks.
MODEL_READY_MS: Final = 600_000
# A worker may take 30 s to drain, its pool manager and the queen a little more.
STACK_STOP_MS: Final = 45_000
LOG_TAIL_LINES: Final = 20
# A service's log of one run; the one before is kept beside it.
LOG_TAIL_BYTES: Final = 64 << 10
CHECK_TIMEOUT_MS: Final = 20_000
# A collector that is away delays the end of a command by no more than this.
TRACE_EXPORT_MS: Final = 2_000
# A command whose lease was lost gets so long between SIGTERM and SIGKILL.
COMMAND_STOP_MS: Final = 5_000
