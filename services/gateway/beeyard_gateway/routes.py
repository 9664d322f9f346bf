"""Every route of the gateway, one row each."""

from typing import Final

from beeyard.queen.v1 import history_service_pb2 as history_pb
from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard.queen.v1 import job_pb2
from beeyard.queen.v1 import policy_service_pb2 as policy_pb

from beeyard_gateway.history import History
from beeyard_gateway.jobs import Jobs
from beeyard_gateway.openai.completions import Completions
from beeyard_gateway.openai.models import Models
from beeyard_gateway.openai.schema import ChatRequest, TextRequest
from beeyard_gateway.probes import Probes
from beeyard_gateway.routing import JOB_HEADERS, Parameter, RouteRow
from beeyard_gateway.scheduler import Scheduler

_DETACH: Final = Parameter(
    "X-Beeyard-Detach", "true: the job goes on when the client hangs up.", "header"
)
_LAST_EVENT: Final = Parameter("Last-Event-ID", "Go on behind the token of this index.", "header")
_COMPLETION: Final = (*JOB_HEADERS, _DETACH, _LAST_EVENT)
_PAGE: Final = (
    Parameter("page_size", "Most entries, 1 to 1000; 0: 50.", kind="integer"),
    Parameter("page_token", "next_page_token of the page before."),
)
_SCHEDULER: Final = "/v2/admin/scheduler"


def openai_rows(completions: Completions, models: Models) -> list[RouteRow]:
    """Return the routes of the OpenAI API."""
    return [
        RouteRow(
            method="POST",
            path="/v1/chat/completions",
            answer=completions.chat,
            summary="Answer a conversation.",
            body=ChatRequest,
            streams=True,
            parameters=_COMPLETION,
        ),
        RouteRow(
            method="POST",
            path="/v1/completions",
            answer=completions.text,
            summary="Continue a text.",
            body=TextRequest,
            streams=True,
            parameters=_COMPLETION,
        ),
        RouteRow(
            method="GET", path="/v1/models", answer=models.list_all, summary="List the models."
        ),
        RouteRow(
            method="GET",
            path="/v1/models/{model:path}",
            answer=models.get,
            summary="Describe a model.",
        ),
    ]


def job_rows(jobs: Jobs) -> list[RouteRow]:
    """Return the routes of the jobs API."""
    filters = (
        Parameter("state", "Only jobs in these states, separated by commas."),
        Parameter("tenant_id", "Only jobs of this tenant."),
        Parameter("model", "Only jobs for this model."),
    )
    one = "/v2/jobs/{job_id}"
    start = Parameter("from_token", "Index of the first token to send.", kind="integer")
    return [
        RouteRow(
            method="POST",
            path="/v2/jobs",
            answer=jobs.submit,
            summary="Submit a job; 202 once it is durable.",
            body=pb.SubmitJobRequest,
            status=202,
            parameters=JOB_HEADERS,
        ),
        RouteRow(
            method="GET",
            path="/v2/jobs",
            answer=jobs.list_page,
            summary="List jobs, newest first.",
            reply=pb.ListJobsResponse,
            parameters=(*_PAGE, *filters),
        ),
        RouteRow(
            method="GET",
            path=one,
            answer=jobs.get,
            summary="Look at a job.",
            reply=job_pb2.Job,
        ),
        RouteRow(
            method="GET",
            path=one + "/events",
            answer=jobs.events,
            summary="Follow a job by server-sent events.",
            content_type="text/event-stream",
            parameters=(_LAST_EVENT, start),
        ),
        RouteRow(
            method="POST",
            path=one + "/cancel",
            answer=jobs.cancel,
            summary="Cancel a job.",
            reply=job_pb2.Job,
        ),
        RouteRow(
            method="GET",
            path=one + "/explain",
            answer=jobs.explain,
            summary="Say why a job waits, or why it ran where it ran.",
            reply=pb.JobExplanation,
        ),
    ]


def history_rows(history: History) -> list[RouteRow]:
    """Return the routes about what has ended."""
    filters = (
        Parameter("tenant_id", "Only jobs of this tenant."),
        Parameter("model", "Only jobs for this model."),
        Parameter(
            "since_ms", "Only jobs that ended then or later, in ms of Unix time.", kind="integer"
        ),
        Parameter("until_ms", "Only jobs that ended before, in ms of Unix time.", kind="integer"),
    )
    return [
        RouteRow(
            method="GET",
            path="/v2/stats",
            answer=history.statistics,
            summary="Say what became of jobs, and how long they waited and took.",
            reply=history_pb.JobStatistics,
            parameters=(
                Parameter("by", "tenant, model, priority, worker or device; tenant."),
                *filters,
            ),
        ),
        RouteRow(
            method="GET",
            path="/v2/forecast",
            answer=history.forecast,
            summary="Say how often what was predicted of jobs came.",
            reply=history_pb.ForecastReport,
            parameters=filters,
        ),
    ]


def scheduler_rows(scheduler: Scheduler) -> list[RouteRow]:
    """Return the routes of the scheduling policies."""
    return [*_trying(scheduler), *_changing(scheduler), *_looking(scheduler)]


def _trying(scheduler: Scheduler) -> list[RouteRow]:
    """What changes nothing and takes a while."""
    load = (
        Parameter("jobs", "Jobs to simulate.", kind="integer"),
        Parameter("arrivals_per_s", "How often they arrive.", kind="number"),
        Parameter("models", "Models that they ask for, separated by commas."),
        Parameter("tenants", "Tenants that they belong to.", kind="integer"),
        Parameter("seed", "The same seed gives the same report.", kind="integer"),
    )
    return [
        RouteRow(
            method="POST",
            path=f"{_SCHEDULER}/validate",
            answer=scheduler.validate,
            summary="Check a policy without keeping it.",
            body=policy_pb.ValidatePolicyRequest,
            reply=policy_pb.ValidatePolicyResponse,
        ),
        RouteRow(
            method="POST",
            path=f"{_SCHEDULER}/compile",
            answer=scheduler.compile,
            summary="Compile rules to Lua.",
            body=policy_pb.CompilePolicyRequest,
            reply=policy_pb.CompilePolicyResponse,
        ),
        RouteRow(
            method="POST",
            path=f"{_SCHEDULER}/simulate",
            answer=scheduler.simulate,
            summary="Simulate a policy.",
            body=policy_pb.SimulatePolicyRequest,
            reply=policy_pb.SimulationReport,
            streams=True,
        ),
        RouteRow(
            method="GET",
            path=f"{_SCHEDULER}/simulate",
            answer=scheduler.simulate,
            summary="Simulate the active policy under made-up load.",
            reply=policy_pb.SimulationReport,
            streams=True,
            parameters=load,
        ),
    ]


def _changing(scheduler: Scheduler) -> list[RouteRow]:
    return [
        RouteRow(
            method="POST",
            path=f"{_SCHEDULER}/deploy",
            answer=scheduler.deploy,
            summary="Make a policy the active one.",
            body=policy_pb.DeployPolicyRequest,
            reply=policy_pb.PolicyVersion,
        ),
        RouteRow(
            method="POST",
            path=f"{_SCHEDULER}/rollback",
            answer=scheduler.rollback,
            summary="Make an earlier version active again.",
            body=policy_pb.RollbackPolicyRequest,
            reply=policy_pb.PolicyVersion,
        ),
    ]


def _looking(scheduler: Scheduler) -> list[RouteRow]:
    name = Parameter("name", "Only versions of this name.")
    return [
        RouteRow(
            method="GET",
            path=f"{_SCHEDULER}/versions",
            answer=scheduler.versions,
            summary="List the versions, newest first.",
            reply=policy_pb.ListPolicyVersionsResponse,
            parameters=(*_PAGE, name),
        ),
        RouteRow(
            method="GET",
            path=f"{_SCHEDULER}/versions/{{version}}",
            answer=scheduler.version,
            summary="Look at one version; `active` for the one that decides now.",
            reply=policy_pb.PolicyVersion,
        ),
        RouteRow(
            method="GET",
            path=f"{_SCHEDULER}/platform-source",
            answer=scheduler.platform_source,
            summary="Read the source of the platform policy.",
            reply=policy_pb.PolicySource,
        ),
        RouteRow(
            method="GET",
            path=f"{_SCHEDULER}/templates",
            answer=scheduler.templates,
            summary="List the policies to start from.",
            reply=policy_pb.ListTemplatesResponse,
        ),
    ]


def probe_rows(probes: Probes) -> list[RouteRow]:
    """Return the routes about the gateway itself."""
    return [
        RouteRow(
            method="GET",
            path="/healthz",
            answer=probes.healthy,
            summary="Whether the process lives.",
        ),
        RouteRow(
            method="GET",
            path="/readyz",
            answer=probes.ready,
            summary="Whether requests are welcome.",
        ),
        RouteRow(
            method="GET",
            path="/metrics",
            answer=probes.metrics,
            summary="The figures for Prometheus.",
            content_type="text/plain",
        ),
        RouteRow(
            method="GET", path="/openapi.json", answer=probes.openapi, summary="This document."
        ),
    ]
