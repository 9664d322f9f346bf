"""Where the command line's own spans go: to the collector that the environment names, if any."""

import logging
import os
from typing import TYPE_CHECKING

from beeyard_client import limits

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_ENDPOINTS = ("BEEYARD_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def tracer_provider(*, wanted: bool) -> "TracerProvider | None":
    """Return a provider if the environment names a collector, or if `wanted` asks for a trace id anyway.

    The packages are imported only then, since they are slow to import and most commands trace nothing.
    """
    endpoint = next((os.environ[one] for one in _ENDPOINTS if os.environ.get(one)), "")
    if not endpoint and not wanted:
        return None
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415

    provider = TracerProvider(resource=Resource.create({"service.name": "beeyard-cli"}))
    if endpoint:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

        # The exporter warns of each of its tries; one line at the end is enough.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.ERROR)
        exporter = OTLPSpanExporter(
            endpoint=endpoint,
            insecure=endpoint.startswith("http://"),
            timeout=limits.TRACE_EXPORT_MS / 1000,
        )
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider
