"""The policy service's wire types turned into the client's own, and back."""

from types import MappingProxyType
from typing import Final

from beeyard.queen.v1 import policy_service_pb2 as pb

from beeyard_client.errors import invalid
from beeyard_client.policy import (
    CompiledPolicy,
    Decision,
    DispatchIntent,
    EvictIntent,
    Intent,
    PolicyLanguage,
    PolicyProblem,
    PolicySource,
    PolicyState,
    PolicyTemplate,
    PolicyVersion,
    PreemptIntent,
    RejectIntent,
    StartWorkerIntent,
    Validation,
    WaitIntent,
)
from beeyard_client.wire import candidate, moment

_INT64: Final = 2**63
_LANGUAGES: Final = MappingProxyType[str, "pb.PolicyLanguage.ValueType"](
    {"lua": pb.POLICY_LANGUAGE_LUA, "yaml": pb.POLICY_LANGUAGE_YAML}
)
_STATES: Final = MappingProxyType[int, PolicyState](
    {
        pb.POLICY_STATE_ACTIVE: PolicyState.ACTIVE,
        pb.POLICY_STATE_INACTIVE: PolicyState.INACTIVE,
        pb.POLICY_STATE_SUSPENDED: PolicyState.SUSPENDED,
    }
)


def source_to_wire(language: PolicyLanguage, text: str) -> pb.PolicySource:
    """Return a policy's text as it is sent.

    Raises:
        BeeyardError: `INVALID_REQUEST`, for what no message can carry.
    """
    if language not in _LANGUAGES:
        raise invalid("source.language", "a policy is written in lua or yaml")
    return pb.PolicySource(language=_LANGUAGES[language], text=carried("source.text", text))


def carried(field: str, text: str) -> str:
    """Return `text`.

    Raises:
        BeeyardError: `INVALID_REQUEST`, if no message can carry it.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise invalid(field, f"{field} is not valid Unicode text") from None
    return text


def number_to_wire(field: str, number: int | None) -> int | None:
    """Return a version's number.

    Raises:
        BeeyardError: `INVALID_REQUEST`, if no message can carry it.
    """
    if number is not None and not -_INT64 <= number < _INT64:
        raise invalid(field, f"{field} is out of range")
    return number


def source(wire: pb.PolicySource) -> PolicySource:
    """Return a policy's text."""
    is_yaml = wire.language == pb.POLICY_LANGUAGE_YAML
    return PolicySource(language="yaml" if is_yaml else "lua", text=wire.text)


def version(wire: pb.PolicyVersion) -> PolicyVersion:
    """Return one version."""
    return PolicyVersion(
        name=wire.name,
        version=wire.version,
        digest=wire.digest,
        state=_STATES.get(wire.state, PolicyState.UNKNOWN),
        source=source(wire.source) if wire.HasField("source") else None,
        author=wire.author,
        note=wire.note,
        create_time=moment(wire.create_time),
        activate_time=moment(wire.activate_time),
        suspension=wire.suspension,
    )


def validation(wire: pb.ValidatePolicyResponse) -> Validation:
    """Return what a check found."""
    return Validation(
        problems=tuple(_problem(one) for one in wire.problems),
        lua=wire.lua,
        states_tried=wire.states_tried,
        decision_us_max=wire.decision_us_max,
    )


def compiled(wire: pb.CompilePolicyResponse) -> CompiledPolicy:
    """Return what became of rules."""
    return CompiledPolicy(lua=wire.lua, problems=tuple(_problem(one) for one in wire.problems))


def _problem(wire: pb.PolicyProblem) -> PolicyProblem:
    return PolicyProblem(
        # What this client does not know may be worse than a warning.
        is_error=wire.severity != pb.PROBLEM_SEVERITY_WARNING,
        message=wire.message,
        line=wire.line,
        column=wire.column,
        field=wire.field,
    )


def template(wire: pb.PolicyTemplate) -> PolicyTemplate:
    """Return a policy to start from."""
    return PolicyTemplate(name=wire.name, summary=wire.summary, source=source(wire.source))


def decision(wire: pb.Decision) -> Decision:
    """Return one decision."""
    return Decision(
        sequence=wire.sequence,
        create_time=moment(wire.create_time),
        policy_version=wire.policy_version,
        state_version=wire.state_version,
        intent=_intent(wire),
        applied=wire.applied,
        refusal=wire.refusal,
        fallback=wire.fallback,
        cpu_us=wire.cpu_us,
        candidates=tuple(map(candidate, wire.candidates)),
    )


def _intent(wire: pb.Decision) -> Intent | None:
    match wire.WhichOneof("intent"):
        case "dispatch":
            return DispatchIntent(wire.dispatch.job_id, wire.dispatch.worker_id)
        case "wait":
            return WaitIntent(wire.wait.reason, wire.wait.retry_after_ms)
        case "start_worker":
            start = wire.start_worker
            return StartWorkerIntent(start.model, start.pool_id, start.gpu_id)
        case "evict":
            return EvictIntent(wire.evict.worker_id, wire.evict.reason)
        case "preempt":
            return PreemptIntent(wire.preempt.job_id, wire.preempt.for_job_id)
        case "reject":
            return RejectIntent(wire.reject.job_id, wire.reject.reason)
        case _:
            return None
