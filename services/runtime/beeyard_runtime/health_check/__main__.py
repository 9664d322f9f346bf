"""Asks a service of Beeyard whether it takes calls: `python -m beeyard_runtime.health_check 127.0.0.1:7700`.

For whoever watches services and can only run a command. Kubernetes asks gRPC services by itself, but neither with TLS
nor on a pod's loopback, and the images hold no other tool that could. It is run every few seconds beside what it asks,
so it loads gRPC and nothing else of the services: settings and logs would cost three times as much.
"""

import argparse
import sys
from pathlib import Path

import grpc
from beeyard_core import limits
from grpc_health.v1 import health_pb2, health_pb2_grpc


def main(arguments: list[str]) -> int:
    """Print the state of a service; return 0 if it takes calls, 1 if not, 2 for a wrong call."""
    options = _parser().parse_args(arguments)
    try:
        state = _state_of(options)
    except OSError as fault:
        sys.stderr.write(f"beeyard health_check: {fault.filename}: {fault.strerror}\n")
        return 1
    sys.stdout.write(f"{state}\n")
    return 0 if state == "SERVING" else 1


def _state_of(options: argparse.Namespace) -> str:
    """Return SERVING or NOT_SERVING as the service says; how the call ended if it does not.

    Raises:
        OSError: A file cannot be read.
    """
    with _channel(options) as channel:
        ask = health_pb2_grpc.HealthStub(channel).Check
        try:
            told = ask(health_pb2.HealthCheckRequest(), timeout=options.timeout_ms / 1_000)
        except grpc.RpcError as error:
            return str(error.code().name)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(told.status))


def _channel(options: argparse.Namespace) -> grpc.Channel:
    # As for every link of ours: no proxy that the environment names for the web.
    settings: list[tuple[str, str | int]] = [("grpc.enable_http_proxy", 0)]
    if options.tls_ca is None:
        return grpc.insecure_channel(options.address, options=settings)
    if options.server_name:
        settings.append(("grpc.ssl_target_name_override", options.server_name))
    ca, key, cert = (
        file.read_bytes() if file is not None else None
        for file in (options.tls_ca, options.tls_key, options.tls_cert)
    )
    credentials = grpc.ssl_channel_credentials(ca, key, cert)
    return grpc.secure_channel(options.address, credentials, options=settings)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m beeyard_runtime.health_check",
        description="Asks a queen, pool manager or worker whether it takes calls.",
        allow_abbrev=False,
    )
    parser.add_argument("address", metavar="HOST:PORT")
    parser.add_argument("--tls-ca", type=Path, help="whose signatures count; none: without TLS")
    parser.add_argument("--tls-cert", type=Path, help="what is shown, where callers must show one")
    parser.add_argument("--tls-key", type=Path, help="its private key")
    parser.add_argument(
        "--server-name", default="", help="a name in the service's certificate, if not the host's"
    )
    parser.add_argument(
        "--timeout-ms", type=int, default=limits.READY_PROBE_MS, help="(default %(default)s)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
