package beeyard

// Reason says why something was refused or failed: the value of google.rpc.ErrorInfo.reason. The list is closed.
type Reason string

// The reasons of the contract, in the order of the queen's own list.
const (
	// Bad input: the caller must change the request.
	ReasonInvalidRequest    Reason = "INVALID_REQUEST"
	ReasonPolicyInvalid     Reason = "POLICY_INVALID"
	ReasonRequestIDConflict Reason = "REQUEST_ID_CONFLICT"
	// Who asks.
	ReasonUnauthenticated  Reason = "UNAUTHENTICATED"
	ReasonPermissionDenied Reason = "PERMISSION_DENIED"
	// Nothing of that name.
	ReasonJobNotFound    Reason = "JOB_NOT_FOUND"
	ReasonLeaseNotFound  Reason = "LEASE_NOT_FOUND"
	ReasonWorkerNotFound Reason = "WORKER_NOT_FOUND"
	ReasonModelNotFound  Reason = "MODEL_NOT_FOUND"
	ReasonPolicyNotFound Reason = "POLICY_NOT_FOUND"
	// What is there can never run it.
	ReasonNoCapacityIncompatibleModel             Reason = "NO_CAPACITY_INCOMPATIBLE_MODEL"
	ReasonNoCapacityIncompatibleEngine            Reason = "NO_CAPACITY_INCOMPATIBLE_ENGINE"
	ReasonNoCapacityIncompatibleDeviceMask        Reason = "NO_CAPACITY_INCOMPATIBLE_DEVICE_MASK"
	ReasonNoCapacityIncompatibleVRAM              Reason = "NO_CAPACITY_INCOMPATIBLE_VRAM"
	ReasonNoCapacityIncompatibleContext           Reason = "NO_CAPACITY_INCOMPATIBLE_CONTEXT"
	ReasonNoCapacityIncompatibleComputeCapability Reason = "NO_CAPACITY_INCOMPATIBLE_COMPUTE_CAPABILITY"
	ReasonNoCapacityIncompatibleQuantization      Reason = "NO_CAPACITY_INCOMPATIBLE_QUANTIZATION"
	ReasonPolicyImmutable                         Reason = "POLICY_IMMUTABLE"
	ReasonPolicyDenied                            Reason = "POLICY_DENIED"
	// Too much for now.
	ReasonQueueFullReject    Reason = "QUEUE_FULL_REJECT"
	ReasonQueueFullDropLRU   Reason = "QUEUE_FULL_DROP_LRU"
	ReasonQuotaExceeded      Reason = "QUOTA_EXCEEDED"
	ReasonBudgetExceeded     Reason = "BUDGET_EXCEEDED"
	ReasonCapacityGated      Reason = "CAPACITY_GATED"
	ReasonPoolUnready        Reason = "POOL_UNREADY"
	ReasonNoWorkersAvailable Reason = "NO_WORKERS_AVAILABLE"
	ReasonDraining           Reason = "DRAINING"
	ReasonStoreUnavailable   Reason = "STORE_UNAVAILABLE"
	// Too late.
	ReasonDeadlineUnmet    Reason = "DEADLINE_UNMET"
	ReasonDeadlineExceeded Reason = "DEADLINE_EXCEEDED"
	ReasonResumeOffsetGone Reason = "RESUME_OFFSET_GONE"
	ReasonReaderStalled    Reason = "READER_STALLED"
	// Somebody else holds it.
	ReasonWorkerBusy          Reason = "WORKER_BUSY"
	ReasonLeaseHolderMismatch Reason = "LEASE_HOLDER_MISMATCH"
	ReasonStaleEpoch          Reason = "STALE_EPOCH"
	ReasonStalePolicyVersion  Reason = "STALE_POLICY_VERSION"
	// It broke.
	ReasonWorkerCommunicationFailed Reason = "WORKER_COMMUNICATION_FAILED"
	ReasonWorkerError               Reason = "WORKER_ERROR"
	ReasonWorkerReset               Reason = "WORKER_RESET"
	ReasonStreamReadError           Reason = "STREAM_READ_ERROR"
	ReasonParseError                Reason = "PARSE_ERROR"
	ReasonModelLoadFailed           Reason = "MODEL_LOAD_FAILED"
	ReasonVRAMOOM                   Reason = "VRAM_OOM"
	ReasonAttemptsExhausted         Reason = "ATTEMPTS_EXHAUSTED"
	ReasonInternal                  Reason = "INTERNAL"
)

// Reasons that no queen sends: the client's own words for what happened on this side.
const (
	// ReasonQueenUnreachable says that nobody answered at the address.
	ReasonQueenUnreachable Reason = "QUEEN_UNREACHABLE"
	// ReasonCancelled says that the job was cancelled, so it has no whole answer.
	ReasonCancelled Reason = "CANCELLED"
)
