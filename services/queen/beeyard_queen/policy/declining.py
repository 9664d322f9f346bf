"""What the policy desk says when it does not do what it is asked."""

from beeyard_core.refusal import Refusal
from beeyard_runtime.rpc_errors import RpcRefusal, refuse

from beeyard_queen.policy.running import label_of
from beeyard_queen.policy.validation import Problem
from beeyard_queen.store.versions import VersionRow


def invalid(problem: Problem) -> RpcRefusal:
    """Return the refusal of a policy with an error."""
    metadata = {"line": str(problem.line), "column": str(problem.column)} if problem.line else {}
    if problem.field:
        metadata["rule"] = problem.field
    return refuse(Refusal.POLICY_INVALID, str(problem), field="source.text", metadata=metadata)


def not_found(version: int | None) -> RpcRefusal:
    """Return the refusal of a number that no version has."""
    return refuse(Refusal.POLICY_NOT_FOUND, f"there is no version {version}, or it was forgotten")


def none_before() -> RpcRefusal:
    """Return the refusal to go back to what was never there."""
    return refuse(Refusal.POLICY_NOT_FOUND, "no other policy has been active yet")


def not_swapped(row: VersionRow, before: VersionRow, fault: str) -> RpcRefusal:
    """Return the refusal of a version that does not load where it should decide."""
    return refuse(
        Refusal.POLICY_INVALID,
        f"version {row.version} could not be swapped in, {label_of(before)} goes on: {fault}",
        metadata={"version": str(row.version)},
    )


def stale(active: int, expected: int) -> RpcRefusal:
    """Return the refusal of a change that was meant for another active version."""
    return refuse(
        Refusal.STALE_POLICY_VERSION,
        f"version {active} is active and not {expected}; look at it, then deploy again",
        field="expected_active_version",
        metadata={"active_version": str(active)},
    )


def immutable() -> RpcRefusal:
    """Return the refusal of every change in platform mode."""
    return refuse(
        Refusal.POLICY_IMMUTABLE,
        "this queen runs in platform mode and keeps to the platform policy; start it with --policy-mode lab to deploy "
        "others",
    )
