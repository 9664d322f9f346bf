"""Bounds on what processes show each other: certificates, and figures for Prometheus."""

from typing import Final

#: How often a process looks whether its certificates were renewed, at most, when somebody connects.
CERTS_LOOK_MS: Final = 1_000
#: How often it complains of a certificate that ends soon and was not renewed.
CERTS_WARN_MS: Final = 24 * 3_600_000

#: Who reads the figures of one process at once.
METRICS_SCRAPES_MAX: Final = 16
#: How long one of them may be silent.
METRICS_SCRAPE_MS: Final = 10_000
