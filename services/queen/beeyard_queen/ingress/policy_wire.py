"""Between the messages of the policy service and what the policy desk works with."""

from types import MappingProxyType
from typing import Final, assert_never

from beeyard.queen.v1 import policy_service_pb2 as pb
from beeyard_core import limits
from beeyard_core.refusal import Refusal
from beeyard_runtime.rpc_errors import refuse

from beeyard_queen.ingress.wire import timestamp_of
from beeyard_queen.policy.desk import Deployment
from beeyard_queen.policy.starters import Template
from beeyard_queen.policy.validation import Finding, Problem
from beeyard_queen.store.versions import Language, VersionRow

_LANGUAGES: Final = MappingProxyType[int, Language](
    {pb.POLICY_LANGUAGE_LUA: "lua", pb.POLICY_LANGUAGE_YAML: "yaml"}
)


def source_of(
    request: pb.DeployPolicyRequest
    | pb.ValidatePolicyRequest
    | pb.CompilePolicyRequest
    | pb.SimulatePolicyRequest,
) -> tuple[Language, str]:
    """Return language and text of a policy that came in; the text is judged later.

    Raises:
        RpcRefusal: INVALID_REQUEST, if there is none.
    """
    if not request.HasField("source"):
        raise refuse(Refusal.INVALID_REQUEST, "source must be set", field="source")
    language = _LANGUAGES.get(request.source.language)
    if language is None:
        message = "source.language must be POLICY_LANGUAGE_LUA or POLICY_LANGUAGE_YAML"
        raise refuse(Refusal.INVALID_REQUEST, message, field="source.language")
    return language, request.source.text


def deployment_of(request: pb.DeployPolicyRequest, *, known_author: str = "") -> Deployment:
    """Return what is to be deployed; whoever is known by a token is the author, whatever the request says.

    Raises:
        RpcRefusal: INVALID_REQUEST, with the field at fault.
    """
    language, text = source_of(request)
    expected = request.expected_active_version
    return Deployment(
        language=language,
        text=text,
        name=_line("name", request.name, limits.POLICY_NAME_BYTES_MAX),
        author=_line("author", known_author or request.author, limits.POLICY_AUTHOR_BYTES_MAX),
        note=_bounded("note", request.note, limits.POLICY_NOTE_BYTES_MAX),
        expected_active=expected if request.HasField("expected_active_version") else None,
    )


def _bounded(field: str, text: str, bytes_max: int) -> str:
    if len(text.encode()) > bytes_max:
        raise refuse(
            Refusal.INVALID_REQUEST, f"{field} must be at most {bytes_max} bytes", field=field
        )
    return text


def _line(field: str, text: str, bytes_max: int) -> str:
    """Return a text that logs and tables show in one line."""
    if not text.isprintable():
        message = f"{field} must be one line of printable text"
        raise refuse(Refusal.INVALID_REQUEST, message, field=field)
    return _bounded(field, text, bytes_max)


def wire_source_of(language: Language, text: str) -> pb.PolicySource:
    """Return a policy's text as it is sent."""
    return pb.PolicySource(language=_wire_language(language), text=text)


def _wire_language(language: Language) -> "pb.PolicyLanguage.ValueType":
    match language:
        case "lua":
            return pb.POLICY_LANGUAGE_LUA
        case "yaml":
            return pb.POLICY_LANGUAGE_YAML
        case _:
            assert_never(language)


def wire_version_of(row: VersionRow) -> pb.PolicyVersion:
    """Return a version; with its source if the row has one."""
    wire = pb.PolicyVersion(
        name=row.name,
        version=row.version,
        digest=row.digest,
        state=_state_of(row),
        author=row.author,
        note=row.note,
        suspension=row.suspension,
    )
    if row.text:
        wire.source.CopyFrom(wire_source_of(row.language, row.text))
    if row.created_ms:
        wire.create_time.CopyFrom(timestamp_of(row.created_ms))
    if row.activated_ms:
        wire.activate_time.CopyFrom(timestamp_of(row.activated_ms))
    return wire


def _state_of(row: VersionRow) -> "pb.PolicyState.ValueType":
    if row.is_active:
        return pb.POLICY_STATE_ACTIVE
    return pb.POLICY_STATE_SUSPENDED if row.suspension else pb.POLICY_STATE_INACTIVE


def wire_validation_of(finding: Finding) -> pb.ValidatePolicyResponse:
    """Return what validation found."""
    loads = finding.program is not None and not finding.is_rejected
    return pb.ValidatePolicyResponse(
        problems=[wire_problem_of(one) for one in finding.problems],
        lua=finding.program.lua.decode() if finding.program and loads else "",
        states_tried=finding.worlds if loads else 0,
        decision_us_max=finding.worst_cpu_us,
    )


def wire_problem_of(problem: Problem) -> pb.PolicyProblem:
    """Return one problem."""
    severity = pb.PROBLEM_SEVERITY_ERROR if problem.is_error else pb.PROBLEM_SEVERITY_WARNING
    return pb.PolicyProblem(
        severity=severity,
        message=problem.message,
        line=problem.line,
        column=problem.column,
        field=problem.field,
    )


def wire_template_of(template: Template) -> pb.PolicyTemplate:
    """Return a policy to start from."""
    return pb.PolicyTemplate(
        name=template.name,
        summary=f"{template.does} Use it when: {template.use_when}",
        source=wire_source_of(template.language, template.source),
    )
