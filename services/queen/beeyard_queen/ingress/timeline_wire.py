"""A job's timeline as the wire has it."""

from collections.abc import Iterable

from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard.queen.v1 import job_pb2

from beeyard_queen.timelines import TimelineSpan


def timeline_message(job: job_pb2.Job, spans: Iterable[TimelineSpan]) -> pb.JobTimeline:
    """Return a job with its phases."""
    message = pb.JobTimeline(job=job)
    for span in spans:
        made = message.spans.add(name=span.name, attempt=span.attempt, attributes=span.facts)
        made.begin_time.FromMilliseconds(span.begin_ms)
        if span.end_ms is not None:
            made.end_time.FromMilliseconds(span.end_ms)
    return message
