"""Where the command line's own spans go: to the collector that the environment names, if any."""

import os
from typing import TYPE_CHECKING

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

        insecure = endpoint.startswith("http://")
        exporter = OTLPSpanExporter(endpoint=endpoint, insecure=insecure)
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider
