"""The one table of rights: a row for every RPC of every service and every route of the gateway.

What has no row is refused wherever callers are told apart; a test goes through the descriptors and the routes and finds
what has none. `docs/security.md` shows the table; it is drawn from here.

The tenant rule of a row binds whoever is let in for a role that ends at a tenant (`client`, and a `worker` with one):
under ASKED the request names the tenant, under OWNED the thing that it names belongs to one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum, unique
from types import MappingProxyType
from typing import Final

from beeyard_runtime.security.callers import Role


@unique
class TenantRule(StrEnum):
    """What a tenant has to do with a method."""

    #: Nothing.
    NONE = "-"
    #: `tenant_id` of the request is filled in with the caller's; another one is PERMISSION_DENIED.
    ASKED = "asked"
    #: What is another tenant's is not there: NOT_FOUND.
    OWNED = "owned"


@unique
class IdentityRule(StrEnum):
    """As whom a caller may speak."""

    #: No name is claimed.
    NONE = "-"
    #: As the pool of its token or certificate.
    POOL = "its pool"
    #: As a worker of that pool.
    WORKER = "a worker of its pool"


@dataclass(frozen=True, slots=True)
class Row:
    """The rights on one method or route.

    Attributes:
        roles: Who may; None: everybody, known or not.
        tenant: The tenant rule.
        identity: The identity rule.
        audited: Fields of the request that the audit trail tells; None: it is not audited.
    """

    roles: frozenset[Role] | None
    tenant: TenantRule = TenantRule.NONE
    identity: IdentityRule = IdentityRule.NONE
    audited: tuple[str, ...] | None = None

    @property
    def is_open(self) -> bool:
        """Whether nobody is asked who they are."""
        return self.roles is None


_ASKED, _OWNED = TenantRule.ASKED, TenantRule.OWNED
_NOBODY_ASKED: Final = Row(None)
_KNOWN: Final = frozenset(Role) - {Role.MONITOR}
_OPERATORS: Final = frozenset({Role.OPERATOR, Role.ADMIN})
_SUBMITTERS: Final = frozenset({Role.CLIENT, Role.ADMIN})
_OWNERS: Final = frozenset({Role.CLIENT, Role.OPERATOR, Role.ADMIN})
_HOLDERS: Final = frozenset({Role.WORKER, Role.OPERATOR, Role.ADMIN})
_HOSTS: Final = frozenset({Role.POOL, Role.OPERATOR, Role.ADMIN})


def _inference() -> Iterator[tuple[str, Row]]:
    for name in ("Infer", "SubmitJob"):
        yield name, Row(_SUBMITTERS, _ASKED)
    for name in ("WatchJob", "GetJob", "CancelJob", "ExplainJob", "GetJobTimeline"):
        yield name, Row(_OWNERS, _OWNED)
    yield "ListJobs", Row(_OWNERS, _ASKED)


def _fleet() -> Iterator[tuple[str, Row]]:
    for name in ("ListPools", "ListWorkers", "WatchFleet"):
        yield name, Row(_OPERATORS)
    yield "ListModels", Row(_OWNERS)
    yield "ListModelScales", Row(_OPERATORS)
    yield "SetModelScale", Row(_OPERATORS, audited=("model", "scale"))
    yield "ListTenants", Row(_OWNERS, _ASKED)
    yield "StartWorker", Row(_OPERATORS, audited=("model", "pool_id", "request_id"))
    for name in ("StopWorker", "DrainWorker"):
        yield name, Row(_OPERATORS, audited=("worker_id",))


def _history() -> Iterator[tuple[str, Row]]:
    for name in ("GetJobStatistics", "GetForecastReport"):
        yield name, Row(_OWNERS, _ASKED)


def _policies() -> Iterator[tuple[str, Row]]:
    looking = "ValidatePolicy ListPolicyVersions GetPolicyVersion GetPlatformSource CompilePolicy "
    for name in (looking + "SimulatePolicy WatchDecisions ListTemplates").split():
        yield name, Row(_OPERATORS)
    yield "DeployPolicy", Row(_OPERATORS, audited=("name", "note", "expected_active_version"))
    yield "RollbackPolicy", Row(_OPERATORS, audited=("version",))


def _leases() -> Iterator[tuple[str, Row]]:
    yield "SubmitWork", Row(_SUBMITTERS, _ASKED)
    for name in ("GetWork", "CancelWork"):
        yield name, Row(_OWNERS, _OWNED)
    yield "ListWork", Row(_OWNERS, _ASKED)
    for name in ("RequestLease", "Heartbeat", "ReportProgress", "ReleaseLease"):
        yield name, Row(_HOLDERS, _OWNED)
    yield "RevokeLease", Row(_OPERATORS, audited=("lease_id", "epoch", "reason", "requeue"))
    yield "GetCapacity", Row(_OWNERS | _HOLDERS)


def _hosts() -> Iterator[tuple[str, Row]]:
    yield (
        "beeyard.pool.v1.PoolService/Synchronize",
        Row(frozenset({Role.POOL}), identity=IdentityRule.POOL),
    )
    yield (
        "beeyard.worker.v1.WorkerService/Attach",
        Row(frozenset({Role.POOL, Role.WORKER}), identity=IdentityRule.WORKER),
    )
    manager = "beeyard.pool.v1.PoolManagerService/"
    for name in ("GetSnapshot", "WatchSnapshots", "ListWorkers"):
        yield manager + name, Row(_OPERATORS)
    yield manager + "StartWorker", Row(_OPERATORS, audited=("model", "device", "worker_id"))
    yield manager + "StopWorker", Row(_OPERATORS, audited=("worker_id",))
    engine = "beeyard.worker.v1.EngineService/"
    yield engine + "GetStatus", Row(_HOSTS)
    yield engine + "Drain", Row(_HOSTS, audited=("grace_ms",))
    # Past the queue, so past tenants and their quotas.
    yield engine + "Generate", Row(_OPERATORS)


def _around() -> Iterator[tuple[str, Row]]:
    """What every server has: whoever balances load must be able to ask for its health."""
    for name in ("Check", "Watch", "List"):
        yield f"grpc.health.v1.Health/{name}", _NOBODY_ASKED
    for version in ("v1", "v1alpha"):
        yield f"grpc.reflection.{version}.ServerReflection/ServerReflectionInfo", Row(_KNOWN)
    looking = (
        "GetTopChannels GetServers GetServer GetServerSockets GetChannel GetSubchannel GetSocket"
    )
    for name in looking.split():
        yield f"grpc.channelz.v1.Channelz/{name}", Row(_OPERATORS)


def _under(service: str, rows: Iterator[tuple[str, Row]]) -> Iterator[tuple[str, Row]]:
    return ((f"beeyard.queen.v1.{service}/{name}", row) for name, row in rows)


#: By `package.Service/Method`.
METHODS: Final[Mapping[str, Row]] = MappingProxyType(
    {
        **dict(_under("InferenceService", _inference())),
        **dict(_under("FleetService", _fleet())),
        **dict(_under("HistoryService", _history())),
        **dict(_under("PolicyService", _policies())),
        **dict(_under("LeaseService", _leases())),
        **dict(_hosts()),
        **dict(_around()),
    }
)


def _routes() -> Iterator[tuple[str, Row]]:
    for path in ("/v1/chat/completions", "/v1/completions", "/v2/jobs"):
        yield f"POST {path}", Row(_SUBMITTERS, _ASKED)
    for path in ("/v1/models", "/v1/models/{model:path}"):
        yield f"GET {path}", Row(_OWNERS)
    yield "GET /v2/jobs", Row(_OWNERS, _ASKED)
    for path in ("/v2/stats", "/v2/forecast"):
        yield f"GET {path}", Row(_OWNERS, _ASKED)
    job = "/v2/jobs/{job_id}"
    for route in (f"GET {job}", f"GET {job}/events", f"POST {job}/cancel", f"GET {job}/explain"):
        yield route, Row(_OWNERS, _OWNED)
    scheduler = "/v2/admin/scheduler"
    for name in ("validate", "compile", "simulate", "deploy", "rollback"):
        yield f"POST {scheduler}/{name}", Row(_OPERATORS)
    looking = "simulate versions versions/{version} platform-source templates"
    for name in looking.split():
        yield f"GET {scheduler}/{name}", Row(_OPERATORS)
    yield "GET /v2/live", Row(_OPERATORS)
    yield "GET /metrics", Row(_OPERATORS | {Role.MONITOR})
    for path in ("/healthz", "/readyz", "/openapi.json"):
        yield f"GET {path}", _NOBODY_ASKED


#: The port for figures of every process. A host may read its own and its workers', with what it shows them anyway.
FIGURES: Final = Row(_OPERATORS | {Role.MONITOR, Role.POOL})

#: By `METHOD /template`. The queen decides again; what must be audited is audited there.
ROUTES: Final[Mapping[str, Row]] = MappingProxyType(dict(_routes()))
