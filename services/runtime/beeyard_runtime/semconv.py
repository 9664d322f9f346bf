"""Every name that a trace of Beeyard may carry: spans, attributes, and the metadata key that joins processes.

One module, so that a renamed semantic convention is one edit and a test can compare what is exported with what is
listed here. Attributes never carry prompt or output text.
"""

from typing import Final

# --- How a trace crosses processes (W3C Trace Context) ---
TRACEPARENT: Final = "traceparent"

# --- Spans of one job, outermost first ---
SPAN_INFER: Final = "infer"
SPAN_ADMISSION: Final = "admission"
SPAN_QUEUE_WAIT: Final = "queue.wait"
SPAN_POLICY_DECIDE: Final = "policy.decide"
SPAN_PLACEMENT: Final = "placement"
SPAN_LEASE: Final = "lease"
SPAN_PREFILL: Final = "prefill"
SPAN_DECODE: Final = "decode"

# --- Resource: which process speaks ---
SERVICE_NAME: Final = "service.name"
SERVICE_INSTANCE_ID: Final = "service.instance.id"
SERVICE_VERSION: Final = "service.version"

# --- RPC ---
RPC_SYSTEM: Final = "rpc.system.name"
RPC_SYSTEM_GRPC: Final = "grpc"
RPC_METHOD: Final = "rpc.method"
RPC_STATUS: Final = "rpc.response.status_code"
ERROR_TYPE: Final = "error.type"

# --- HTTP ---
HTTP_METHOD: Final = "http.request.method"
HTTP_ROUTE: Final = "http.route"
HTTP_STATUS: Final = "http.response.status_code"

# --- GenAI ---
GEN_AI_OPERATION: Final = "gen_ai.operation.name"
GEN_AI_PROVIDER: Final = "gen_ai.provider.name"
GEN_AI_REQUEST_MODEL: Final = "gen_ai.request.model"
GEN_AI_REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
GEN_AI_RESPONSE_MODEL: Final = "gen_ai.response.model"
GEN_AI_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
GEN_AI_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
GEN_AI_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"

# --- Beeyard's own ---
JOB_ID: Final = "beeyard.job.id"
JOB_PRIORITY: Final = "beeyard.job.priority"
CORRELATION_ID: Final = "beeyard.correlation.id"
ATTEMPT: Final = "beeyard.attempt"
LEASE_ID: Final = "beeyard.lease.id"
LEASE_EPOCH: Final = "beeyard.lease.epoch"
WORKER_ID: Final = "beeyard.worker.id"
POOL_ID: Final = "beeyard.pool.id"
DEVICE: Final = "beeyard.device"
ENGINE: Final = "beeyard.engine"
POLICY_NAME: Final = "beeyard.policy.name"
POLICY_VERSION: Final = "beeyard.policy.version"
POLICY_REASON: Final = "beeyard.policy.reason"
POLICY_IS_FALLBACK: Final = "beeyard.policy.is_fallback"
REFUSAL_REASON: Final = "beeyard.refusal.reason"
RESUME_COUNT: Final = "beeyard.resume.tokens"

# --- Events of spans. The last three say why something ended early though nothing was wrong: such a span is no error,
# --- and has no `error.type`.
EVENT_FIRST_TOKEN: Final = "first_token"  # noqa: S105  # of an answer
EVENT_CANCELLED: Final = "cancelled"
EVENT_PREEMPTED: Final = "preempted"
EVENT_GIVEN_BACK: Final = "given_back"
