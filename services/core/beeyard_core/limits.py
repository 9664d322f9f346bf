"""Every limit of the system, and the relations between them that the design relies on.

A queue, buffer, retry, page or deadline that is not bounded by a constant of this file is a bug. Units come last in
the name. Where an operator may choose, the configuration's default is the constant and its range lies beside it.
"""

from typing import Final

from beeyard_core import simulator_limits as simulator
from beeyard_core.batching_limits import *  # noqa: F403 - all limits are read from one place
from beeyard_core.placement_limits import *  # noqa: F403 - all limits are read from one place
from beeyard_core.simulator_limits import *  # noqa: F403 - all limits are read from one place

# --- What one request may ask ---
PROMPT_BYTES_MAX: Final = 1 << 20
MESSAGES_MAX: Final = 1_024
MAX_TOKENS_DEFAULT: Final = 256
MAX_TOKENS_LIMIT: Final = 32_768
STOP_COUNT_MAX: Final = 16
EXTENSIONS_MAX: Final = 32
STOP_BYTES_MAX: Final = 256
LABEL_COUNT_MAX: Final = 32
LABEL_BYTES_MAX: Final = 128
ID_BYTES_MAX: Final = 128
SEED_MAX: Final = 2**32 - 1
TEMPERATURE_MAX: Final = 2.0
TOP_K_MAX: Final = 1_000
COST_UNITS_MAX: Final = 100
DEADLINE_MS_MAX: Final = 24 * 3_600_000
ATTEMPTS_DEFAULT: Final = 3
ATTEMPTS_MAX: Final = 10
LIST_PAGE_DEFAULT: Final = 50
LIST_PAGE_MAX: Final = 1_000
TEMPERATURE_DEFAULT: Final = 0.8
TOP_P_DEFAULT: Final = 0.95
TOP_K_DEFAULT: Final = 40

# --- Messages ---
MESSAGE_BYTES_MAX: Final = 4 << 20
# A prompt travels as one message, with room for everything around it.
assert MESSAGE_BYTES_MAX >= 2 * PROMPT_BYTES_MAX
METADATA_BYTES_MAX: Final = 16 << 10
ERROR_MESSAGE_BYTES_MAX: Final = 1_024
ERROR_METADATA_ENTRIES_MAX: Final = 16
ERROR_METADATA_BYTES_MAX: Final = 256
# A refusal fits the trailing metadata even at its largest: the message goes percent-encoded (three bytes each) and
# again up to three times in the details, which go as base64 (four bytes for three) with their keys.
assert (
    METADATA_BYTES_MAX
    >= 3 * ERROR_MESSAGE_BYTES_MAX
    + 4
    * (
        3 * ERROR_MESSAGE_BYTES_MAX
        + ERROR_METADATA_ENTRIES_MAX * (ERROR_METADATA_BYTES_MAX + ID_BYTES_MAX)
    )
    // 3
)
# How far a sender may run ahead of a reader that stopped, on one connection.
STREAM_WINDOW_BYTES: Final = 64 << 10
FRAME_TOKENS_MAX: Final = 64

# --- Who is there ---
PEM_FILE_BYTES_MAX: Final = 1 << 20
CERT_WARNING_MS: Final = 14 * 86_400_000
TOKEN_BYTES_MAX: Final = 256
TOKENS_MAX: Final = 10_000
TOKENS_FILE_BYTES_MAX: Final = 8 << 20
# A token that was revoked counts for so long at the most.
TOKENS_LOOK_MS: Final = 1_000
# Calls with nothing that is known, from one address: so many at once, then so many a second.
FAILURES_BURST: Final = 20
FAILURES_PER_SECOND: Final = 1
PEERS_COUNTED_MAX: Final = 4_096

# --- Links ---
HEARTBEAT_INTERVAL_MS: Final = 1_000
LEASE_TTL_MS: Final = 10_000
# What an operator may choose instead.
LEASE_TTL_MS_MIN: Final = 1_000
LEASE_TTL_MS_MAX: Final = 60_000
assert LEASE_TTL_MS_MIN <= LEASE_TTL_MS <= LEASE_TTL_MS_MAX
# A worker may miss two heartbeats in a row without losing its leases.
HEARTBEATS_PER_TTL: Final = 3
assert LEASE_TTL_MS >= HEARTBEATS_PER_TTL * HEARTBEAT_INTERVAL_MS
TICK_INTERVAL_MS: Final = 250
assert TICK_INTERVAL_MS < HEARTBEAT_INTERVAL_MS
# With the shortest time to live heartbeats still come no faster than the core looks at the time.
assert LEASE_TTL_MS_MIN >= HEARTBEATS_PER_TTL * TICK_INTERVAL_MS
REPORT_INTERVAL_MS: Final = 1_000
# A pool whose last report is older than this is stale, and nothing new is placed on it.
REPORT_STALE_MS: Final = 5_000
assert REPORT_STALE_MS >= 3 * REPORT_INTERVAL_MS
KEEPALIVE_TIME_MS: Final = 5_000
KEEPALIVE_TIMEOUT_MS: Final = 3_000
# A half-open link is noticed before the leases on it expire.
assert KEEPALIVE_TIME_MS + KEEPALIVE_TIMEOUT_MS < LEASE_TTL_MS
RPC_DEADLINE_MS: Final = 10_000
# How long a stream's last write may take before the call is ended without it.
STREAM_END_MS: Final = 1_000
RECONNECT_MIN_MS: Final = 100
RECONNECT_MAX_MS: Final = 2_000
# A worker that lost its stream is back before its leases expire, even if the first tries fail.
assert 2 * RECONNECT_MAX_MS < LEASE_TTL_MS
# A server allows pings at twice the rate that our clients send them at; a faster one is cut off.
KEEPALIVE_PING_GAP_MS: Final = KEEPALIVE_TIME_MS // 2
CONCURRENT_STREAMS_MAX: Final = 10_000
CONCURRENT_RPCS_MAX: Final = 20_000
# Calls that have arrived and were not begun. Beyond 1,000 grpc drops some of them by chance, as CANCELLED and without a
# reason, unless it is told otherwise. As many as one connection may open: each costs up to 50 KB, so all of them half a
# gigabyte, which a hostile peer can make them cost.
PENDING_RPCS_MAX: Final = CONCURRENT_STREAMS_MAX
assert PENDING_RPCS_MAX <= CONCURRENT_RPCS_MAX

# --- The queen ---
QUEUE_DEPTH_MAX: Final = 100_000
# The part of the queue from which on low priorities are refused, where the operator wants them shed.
QUEUE_HIGH_WATER: Final = 0.8
ENDED_JOBS_KEPT_MAX: Final = 10_000
# A job that has just ended stays in memory for so long, however many ended with it: its row is cut from there.
ENDED_JOB_KEPT_MS_MIN: Final = 1_000
INBOX_EVENTS_MAX: Final = 65_536
BATCH_EVENTS_MAX: Final = 64
# What a turn touches policies are told in that turn, but for a queue that was read back or very many deadlines.
assert JOBS_TOLD_AT_ONCE_MAX >= 8 * BATCH_EVENTS_MAX  # noqa: F405
BATCH_WINDOW_MS: Final = 2
RETRY_DELAY_MS: Final = 500
# A job whose second attempt broke rests for half of this to this, twice as long each further time.
ATTEMPT_REST_MS_MIN: Final = 1_000
ATTEMPT_REST_MS_MAX: Final = 30_000
# A job that has run for so long does not kill its worker by being started. Those that were lost with it wait as long at
# most, so a longer time would hold up a crowd that was lost with its host.
TRIAL_MS: Final = 10_000
LOAD_FAILURES_MAX: Final = 3
# Tries in a row that were killed from outside, which says little about the model. With pauses that double, the last of
# them comes two minutes after the first.
LOAD_KILLS_MAX: Final = 8
OPERATOR_REQUESTS_KEPT_MAX: Final = 1_000
# Decisions of a policy between two batches of events; what is left to decide waits for the next turn. One that is taken
# and applied costs the writer loop about 0.1 ms, and a turn should stay well under 20.
DECISIONS_PER_ROUND_MAX: Final = 128
# How often one job may be taken back for more urgent ones; after that it keeps its slot.
PREEMPTIONS_PER_JOB_MAX: Final = 16
# How long a job waits before it is overdue, and how many jobs of its model start until the oldest overdue one does.
OVERDUE_AFTER_MS: Final = 10 * 60_000
OVERDUE_EVERY: Final = 64
# Overdue jobs of different shapes that are asked, one after the other, whether a worker could run them.
OVERDUE_LOOKED_AT_MAX: Final = 64
# Jobs of a tenant, class and model that start in one round of its sessions: with more sessions than this, one that has
# waiting jobs still gets its turn after so many.
SESSION_ROUND_STEPS: Final = 64
POLICY_CONFIG_ENTRIES_MAX: Final = 256
TENANTS_KEPT_MAX: Final = 10_000
# Sessions with a budget that are remembered, and how long an idle one is.
SESSIONS_KEPT_MAX: Final = 100_000
SESSION_KEPT_MS: Final = 24 * 3_600_000
# A policy is told which hosts can load a model if they are no more than this; of more, a wrong choice is dropped.
MODEL_POOLS_TOLD_MAX: Final = 256
# Jobs whose sizes differ by less wait in one line; the longest possible job is a few hundred such steps.
SHAPE_TOKENS: Final = 512
WORKERS_MAX: Final = 10_000
POOLS_MAX: Final = 5_000
CANDIDATES_KEPT_MAX: Final = 32
PROMPT_MEMORY_BYTES_MAX: Final = 256 << 20
OUTPUT_RETENTION_MS: Final = 7 * 24 * 3_600_000
RETENTION_INTERVAL_MS: Final = 60_000
PROGRESS_INTERVAL_MS: Final = 1_000
# How much of a model is loaded is told in so many steps: a client hears of a load some twenty times at most.
LOAD_PROGRESS_STEPS: Final = 20
FLEET_INTERVAL_MIN_MS: Final = 100
FLEET_INTERVAL_MAX_MS: Final = 60_000
FLEET_INTERVAL_DEFAULT_MS: Final = 1_000
# Output is written to the store at least this often while a long job runs; what is not written yet, the worker keeps.
CHECKPOINT_INTERVAL_MS: Final = 1_000
CHECKPOINT_TOKENS: Final = 256
# Rows of an ended job's output that are read at a time; a client that does not read them holds about 64 KiB.
REPLAYED_ROWS_MAX: Final = 4

# --- How many workers a model has ---
WORKERS_PER_MODEL_MAX: Final = 1_024
MODEL_SCALES_MAX: Final = 1_024
SCALES_FILE_BYTES_MAX: Final = 1 << 20
KEEP_WARM_MS_MAX: Final = 30 * 24 * 3_600_000
# A queue whose last job would wait for longer is long, and after so long gets one more worker.
SCALE_OUT_WAIT_MS: Final = 10_000
SCALE_OUT_AFTER_MS: Final = 5_000
# That a queue was long is forgotten only when it is shorter than this share of what counts as long.
SCALE_OUT_FORGET_SHARE: Final = 0.5
assert 0 < SCALE_OUT_FORGET_SHARE < 1
# A worker that has just been loaded makes room only for more urgent work. Loading costs seconds to minutes, so two
# models that want one device by turns get it for at least so long each.
RESIDENCE_MS: Final = 30_000
RESIDENCE_MS_MAX: Final = 24 * 3_600_000

# --- The store ---
# Jobs deleted by one call: a commit waits for that long at most.
STORE_FORGET_JOBS_MAX: Final = 500
# The write-ahead log is moved into the database at this length, in pages of 4 KiB ...
STORE_LOG_PAGES_MAX: Final = 4_096
# ... and this long after a prompt was erased, so that its bytes are gone from the log too.
STORE_ERASURE_DELAY_MS: Final = 5_000

# --- The worker ---
SLOTS_MAX: Final = 256
UNACKNOWLEDGED_TOKENS_MAX: Final = 4_096
assert UNACKNOWLEDGED_TOKENS_MAX >= 2 * CHECKPOINT_TOKENS
FLUSH_GAP_MS_MAX: Final = 5
# Tokens that an engine's thread may be ahead of the event loop before it waits.
ENGINE_BACKLOG_CHUNKS_MAX: Final = 1_024
UPSTREAM_CONNECT_TIMEOUT_MS: Final = 5_000
# Longest silence of an upstream server within a stream; a long prompt on a slow machine is silent, too.
UPSTREAM_READ_TIMEOUT_MS: Final = 120_000
UPSTREAM_LINE_BYTES_MAX: Final = 1 << 20
# A large model takes minutes to load, and its server answers only then.
UPSTREAM_START_TIMEOUT_MS: Final = 600_000
UPSTREAM_PROBE_INTERVAL_MS: Final = 100
UPSTREAM_STOP_GRACE_MS: Final = 5_000
# Leases that run, or whose result nobody has acknowledged yet.
HELD_LEASES_MAX: Final = 4_096
assert HELD_LEASES_MAX >= SLOTS_MAX

# --- The pool manager ---
WORKER_START_TIMEOUT_MS: Final = 60_000
WORKER_STOP_GRACE_MS: Final = 30_000
SUPERVISOR_GRACE_MS: Final = 60_000
SUPERVISOR_INTERVAL_MS: Final = 5_000
# A successor has several chances to adopt before a worker gives up on being adopted.
assert SUPERVISOR_GRACE_MS >= 5 * SUPERVISOR_INTERVAL_MS
LOG_TAIL_LINES: Final = 20
LOG_TAIL_BYTES: Final = 4_096
RESTART_BACKOFF_MIN_MS: Final = 1_000
RESTART_BACKOFF_MAX_MS: Final = 60_000
RECONCILE_INTERVAL_MS: Final = 250
WORKERS_PER_POOL_MAX: Final = 256
EXITED_WORKERS_KEPT_MAX: Final = 64
REPORT_INTERVAL_MS_MIN: Final = 100
REPORT_INTERVAL_MS_MAX: Final = 60_000
STOP_GRACE_MS_MAX: Final = 3_600_000
# The operating system tells a parent of its child's end at once; the end of an adopted process must be looked for.
PROCESS_POLL_MS: Final = 250
READY_POLL_MS: Final = 20
STATUS_DEADLINE_MS: Final = 2_000
LOADING_POLL_MS: Final = 200
WORKER_LOAD_TIMEOUT_MS: Final = 30 * 60_000
# A worker that failed, or that was told to drain, gets so long between SIGTERM and SIGKILL at the end of its grace.
WORKER_KILL_MARGIN_MS: Final = 2_000
assert WORKER_KILL_MARGIN_MS < WORKER_STOP_GRACE_MS
# A process that runs but answers no status for so long is hung, and is ended. Loading may hold the interpreter long.
WORKER_SILENCE_MAX_MS: Final = 60_000
assert WORKER_SILENCE_MAX_MS >= 5 * (SUPERVISOR_INTERVAL_MS + STATUS_DEADLINE_MS)
ADOPTION_TIMEOUT_MS: Final = 10_000
# Adopting takes less than the grace that orphaned workers have.
assert ADOPTION_TIMEOUT_MS < SUPERVISOR_GRACE_MS
WORKER_LOG_BYTES_MAX: Final = 8 << 20
assert WORKER_LOG_BYTES_MAX >= 2 * LOG_TAIL_BYTES
# A hung driver makes the inventory faulty before the pool counts as stale.
INVENTORY_TIMEOUT_MS: Final = 3_000
assert INVENTORY_TIMEOUT_MS + REPORT_INTERVAL_MS < REPORT_STALE_MS
CATALOGUE_INTERVAL_MS: Final = 5_000
CATALOGUE_MODELS_MAX: Final = 1_024

# --- The gateway ---
# A prompt as JSON: a control character takes six bytes there.
HTTP_BODY_BYTES_MAX: Final = 8 << 20
assert HTTP_BODY_BYTES_MAX >= 6 * PROMPT_BYTES_MAX
HTTP_HEADER_BYTES_MAX: Final = 32 << 10
# What waits for a client that does not read, before its writer waits, too.
HTTP_WRITE_BYTES_MAX: Final = 32 << 10
# What one read of a socket brings at most.
HTTP_READ_BYTES_MAX: Final = 256 << 10
HTTP_HEADERS_TIMEOUT_MS: Final = 10_000
HTTP_BODY_TIMEOUT_MS: Final = 30_000
HTTP_CONNECTIONS_MAX: Final = 4_096
HTTP_KEEP_ALIVE_MS: Final = 75_000
# A stream that has nothing to say says so this often, so that no proxy takes it for dead.
HTTP_SILENCE_MS: Final = 10_000
# A client that takes nothing for so long is treated like one that hung up.
HTTP_STALL_MS: Final = 60_000
assert HTTP_STALL_MS > HTTP_SILENCE_MS
# The same for a peer that reads nothing of a gRPC stream. The gateway, which passes its client's pace on, is first.
STREAM_STALL_MS: Final = 90_000
STREAM_STALL_MS_MIN: Final = 1_000
assert STREAM_STALL_MS > HTTP_STALL_MS + HTTP_SILENCE_MS
# So long a call stays to see its last words sent; they are on their way then, and wait for the peer without it.
STATUS_PATIENCE_MS: Final = 5_000
# How long a request waits for a queen that is away, and a job that runs already for its queen to come back.
QUEEN_PATIENCE_MS: Final = 2_000
QUEEN_RETURN_PATIENCE_MS: Final = 60_000
assert QUEEN_RETURN_PATIENCE_MS > 10 * RECONNECT_MAX_MS
READY_PROBE_MS: Final = 1_000
# A client that hung up before its job was accepted: how long the gateway waits for the job's name, to cancel it.
HANGUP_PATIENCE_MS: Final = 2_000
SIMULATION_DEADLINE_MS: Final = 900_000
LIVE_SOCKETS_MAX: Final = 256
LIVE_INTERVAL_MS: Final = 500
assert LIVE_INTERVAL_MS >= FLEET_INTERVAL_MIN_MS
# Decisions kept for a live view that reads slowly; older ones are dropped, and the gap shows in their numbers.
LIVE_DECISIONS_KEPT_MAX: Final = 256
LIVE_MESSAGE_BYTES_MAX: Final = 4 << 10
# Jobs whose timeline is kept, and moments of each: an attempt has at most three.
TIMELINES_KEPT_MAX: Final = 10_000
TIMELINE_MOMENTS_MAX: Final = 128
# Values of one label that a metric may have; what comes later counts as `other`.
METRIC_PRIORITIES_MAX: Final = 8
METRIC_REASONS_MAX: Final = 64
METRIC_MODELS_MAX: Final = 1_024
METRIC_ENGINES_MAX: Final = 4
METRIC_ENGINE_VERSIONS_MAX: Final = 64
METRIC_POOLS_MAX: Final = 256
METRIC_POLICIES_MAX: Final = 64
METRIC_DEVICES_MAX: Final = 64
# Words out of a closed list, such as the actions of a policy.
METRIC_WORDS_MAX: Final = 32
# Series of one figure whose labels multiply; further ones are left out of a sample.
METRIC_SERIES_MAX: Final = 4_096
METRICS_INTERVAL_MS: Final = 5_000

# --- Policies in YAML ---
POLICY_SOURCE_BYTES_MAX: Final = 256 << 10
POLICY_YAML_DEPTH_MAX: Final = 32
POLICY_YAML_NODES_MAX: Final = 20_000
POLICY_YAML_QUOTE_CHARACTERS_MAX: Final = 60
POLICY_RULES_MAX: Final = 256
POLICY_RULE_PRIORITY_MAX: Final = 1_000_000
POLICY_CONDITION_TESTS_MAX: Final = 64
POLICY_LIST_VALUES_MAX: Final = 256
# Any text that a rule compares with; also the longest value that `matches` looks at.
POLICY_TEXT_BYTES_MAX: Final = 256
assert max(ID_BYTES_MAX, LABEL_BYTES_MAX) <= POLICY_TEXT_BYTES_MAX
POLICY_PATTERN_CHARACTERS_MAX: Final = 64
# Steps that a pattern may take on one value: what the sandbox's own guard allows. Costlier patterns look at shorter
# values only, and those that could not even look at so many bytes are refused.
POLICY_PATTERN_STEPS_MAX: Final = 2_000_000
POLICY_PATTERN_VALUE_BYTES_MIN: Final = 64
POLICY_WAIT_MS_MAX: Final = 60_000
# A world written down for `policy compile --explain`.
POLICY_CONTEXT_BYTES_MAX: Final = 64 << 20

# --- Policy hosts ---
# What one call of a policy may use: CPU time and instructions inside, CPU and wall time as seen from outside.
POLICY_CPU_MS: Final = 50
POLICY_INSTRUCTIONS_MAX: Final = 10_000_000
POLICY_LOAD_CPU_MS: Final = 100
POLICY_KILL_CPU_MS: Final = 100
POLICY_LOAD_KILL_CPU_MS: Final = 200
# The sandbox ends a call by itself, with a line number, before it is killed from outside without one.
assert POLICY_KILL_CPU_MS >= 2 * POLICY_CPU_MS
assert POLICY_LOAD_KILL_CPU_MS >= 2 * POLICY_LOAD_CPU_MS
# For a host that neither answers nor uses CPU time; on a loaded machine an innocent call may take long.
POLICY_WALL_MS: Final = 2_000
POLICY_WATCH_INTERVAL_MS: Final = 10
assert POLICY_KILL_CPU_MS + POLICY_WATCH_INTERVAL_MS < POLICY_WALL_MS
# After so long the queen decides by the platform policy and leaves the answer to come in when it likes.
POLICY_PATIENCE_MS: Final = 50
POLICY_SPAWN_TIMEOUT_MS: Final = 5_000
POLICY_ZYGOTE_START_TIMEOUT_MS: Final = 20_000
POLICY_MEMORY_BYTES_MAX: Final = 64 << 20
POLICY_MEMORY_LARGE_BYTES_MAX: Final = 128 << 20
# The mirror of a queue longer than this needs the large allowance.
POLICY_LARGE_QUEUE_JOBS: Final = 5_000
# Python, its libraries and the Lua heap, mapped or not.
POLICY_ADDRESS_SPACE_BYTES: Final = 512 << 20
assert POLICY_ADDRESS_SPACE_BYTES >= 3 * POLICY_MEMORY_LARGE_BYTES_MAX
# Over a host's whole life: the end of one that nobody watches any more.
POLICY_HOST_CPU_S: Final = 3_600
POLICY_DECISIONS_MAX: Final = 1_000
POLICY_LOG_LINES_MAX: Final = 50
POLICY_LOG_BYTES_MAX: Final = 256
POLICY_ERROR_BYTES_MAX: Final = 400
POLICY_CALL_DEPTH_MAX: Final = 20_000
POLICY_STRING_BYTES_MAX: Final = 1 << 20
POLICY_LUA_PATTERN_BYTES_MAX: Final = 256
# Steps of Lua's pattern matcher, which nothing but a kill can interrupt: about 20 ms of them.
POLICY_PATTERN_WORK_MAX: Final = 4_000_000
# A full batch: four ids and a reason a decision.
POLICY_REPLY_BYTES_MAX: Final = 1 << 20
assert POLICY_REPLY_BYTES_MAX >= POLICY_DECISIONS_MAX * (
    4 * ID_BYTES_MAX + POLICY_LOG_BYTES_MAX + 128
)
POLICY_REQUEST_BYTES_MAX: Final = 8 << 20
# What a policy keeps in `context.state` from one decision to the next, packed.
POLICY_STATE_BYTES_MAX: Final = 64 << 10
POLICY_STATE_DEPTH_MAX: Final = 16
assert 8 * POLICY_STATE_BYTES_MAX < POLICY_REPLY_BYTES_MAX
# Deltas sent in one message, so that neither side is away for long.
POLICY_DELTAS_PER_MESSAGE: Final = 500
# Deltas kept for a host that is busy; more, and it gets a fresh picture of everything instead.
POLICY_DELTAS_KEPT_MAX: Final = 10_000
# The circuit breaker: so many kills, or failures of any kind, within the window suspend a policy.
POLICY_KILLS_MAX: Final = 3
# A policy whose intent was dropped is asked again after so long, if nothing changes before.
POLICY_RETRY_MS: Final = 1_000
# Figures that policies emit, over all of them.
POLICY_METRICS_MAX: Final = 256
# Decisions kept for whoever asks later, and those that a slow watcher may be behind.
DECISIONS_KEPT_MAX: Final = 1_000
DECISIONS_UNREAD_MAX: Final = 1_000
# A watcher that asks for decisions to wait sees one of them in this time.
DECISION_WAITS_INTERVAL_MS: Final = 1_000
POLICY_FAILURES_MAX: Final = 5
POLICY_BREAKER_WINDOW_MS: Final = 60_000
assert POLICY_KILLS_MAX <= POLICY_FAILURES_MAX

# --- The decision journal ---
# After so many bytes another file begins; the oldest goes when there are more files than these.
POLICY_JOURNAL_FILE_BYTES_MAX: Final = 64 << 20
POLICY_JOURNAL_FILES_MAX: Final = 4
POLICY_JOURNAL_ENTRY_BYTES_MAX: Final = 16 << 20
# Entries are handed to the writing thread when there are so many, or after so long.
POLICY_JOURNAL_BATCH_ENTRIES: Final = 256
POLICY_JOURNAL_BATCH_MS: Final = 250
# Batches that wait for the disk; more are dropped, and another file begins after a while.
POLICY_JOURNAL_BATCHES_MAX: Final = 64
POLICY_JOURNAL_RETRY_MS: Final = 60_000
# Policies whose text and state are in every file: the active one, and those that may come back.
POLICY_JOURNAL_POLICIES_MAX: Final = 8

# --- The policy desk ---
# Versions that the queen remembers, the newest activations first. Each may hold a whole source.
POLICY_VERSIONS_KEPT_MAX: Final = 1_000
# The active one and the one before it are never forgotten.
assert POLICY_VERSIONS_KEPT_MAX > 2

POLICY_NAME_BYTES_MAX: Final = 128
POLICY_NOTE_BYTES_MAX: Final = 1 << 10
POLICY_AUTHOR_BYTES_MAX: Final = 128
# Validations at one time, and those that wait for their turn; each holds a source, and a host while it runs.
POLICY_VALIDATIONS_MAX: Final = 2
POLICY_VALIDATIONS_WAITING_MAX: Final = 32
# What one more caller is told: when some of those that wait will be through.
POLICY_VALIDATION_RETRY_MS: Final = 2_000
# Warnings that one validation gives.
POLICY_WARNINGS_MAX: Final = 8

# --- The simulator: its numbers are in a file of their own, and read from here like all others ---
assert simulator.SIMULATED_HOSTS_MAX <= POOLS_MAX
# The gateway waits for longer than the longest one computes.
assert SIMULATION_DEADLINE_MS > 1_000 * simulator.SIMULATION_CPU_S_MAX
# A trace travels as one message, with the fleet and the policy beside it.
assert simulator.SIMULATION_TRACE_BYTES_MAX + POLICY_SOURCE_BYTES_MAX < MESSAGE_BYTES_MAX

# --- Telemetry ---
TELEMETRY_SPANS_MAX: Final = 8_192
TELEMETRY_BATCH_SPANS: Final = 512
assert TELEMETRY_BATCH_SPANS <= TELEMETRY_SPANS_MAX
TELEMETRY_INTERVAL_MS: Final = 1_000
TELEMETRY_FLUSH_MS: Final = 2_000

# --- Shutdown ---
DRAIN_GRACE_MS: Final = 10_000
# A gateway that is to end says so to whoever probes it, and goes on serving for so long, before it closes its door.
DRAIN_LEAD_MS: Final = 1_000
# After the grace, what was broken off is still reported for so long.
DRAIN_DELIVERY_MS: Final = 1_000

# --- Heavy work and the governor ---
CAPACITY_UNITS_DEFAULT: Final = 100
CAPACITY_UNITS_MAX: Final = 10_000
WORK_UNITS_MAX: Final = 100
WORK_KINDS_MAX: Final = 64
WORK_BODY_BYTES_MAX: Final = 256 << 10
# A payload and a result fit one message together, with room for everything around them.
assert MESSAGE_BYTES_MAX >= 4 * WORK_BODY_BYTES_MAX
WORK_TEXT_BYTES_MAX: Final = 1_024
WORK_MEASUREMENTS_MAX: Final = 32
WORK_QUEUE_DEPTH_MAX: Final = 10_000
ENDED_WORK_KEPT_MAX: Final = 20_000
# Everything that waits may end at one moment, and must still be in memory when it is saved.
assert ENDED_WORK_KEPT_MAX >= 2 * WORK_QUEUE_DEPTH_MAX
# Callers that wait for an answer about work at once; each may hold a payload or a result until it is durable.
WORK_CALLS_MAX: Final = 1_024
WORK_LEASE_TTL_MS: Final = 15_000
WORK_LEASE_TTL_MS_MIN: Final = 1_000
WORK_LEASE_TTL_MS_MAX: Final = 3_600_000
# A holder may miss two heartbeats in a row without losing its lease.
WORK_HEARTBEATS_PER_TTL: Final = 3
assert WORK_LEASE_TTL_MS_MIN >= WORK_HEARTBEATS_PER_TTL * TICK_INTERVAL_MS
# When to ask again after "not now".
WORK_RETRY_MS: Final = 1_000
# Work that has waited for so long, and would fit an emptier host, is no longer overtaken by smaller work of its class.
WORK_PATIENCE_MS: Final = 60_000
# Whoever was told to ask again counts as waiting for so long; after that, nothing is kept free for it.
WORK_AT_THE_DOOR_MS: Final = 5_000
assert WORK_AT_THE_DOOR_MS >= 3 * WORK_RETRY_MS
API_MEASURE_INTERVAL_MS: Final = 1_000
API_WINDOW_MS: Final = 30_000
API_CALLS_KEPT_MAX: Final = 1_024
# Of fewer calls, one that failed says nothing about a rate.
API_CALLS_MIN: Final = 20
# A measurement of the queen's own calls that is older than this is missing.
API_STALE_MS: Final = 5_000
assert API_STALE_MS >= 3 * API_MEASURE_INTERVAL_MS
# When to ask again for what is not a rate; and the longest wait for what is.
QUOTA_RETRY_MS: Final = 1_000
QUOTA_RETRY_MS_MAX: Final = 3_600_000
TENANTS_FILE_BYTES_MAX: Final = 4 << 20
# A rating rises at once and falls by one point in this time, so that a pause between two bursts opens no gate.
RATING_RELEASE_MS: Final = 1_000
