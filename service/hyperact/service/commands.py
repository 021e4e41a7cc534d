"""The commands that serve: `hyperact serve`, `health` and `token`."""

import sys

from hyperact.service.settings import HealthSettings, ServeSettings, TokenSettings


def serve(settings: ServeSettings) -> int:
    """Answer Act for agents until SIGTERM or Ctrl-C."""
    from hyperact.service.app import run_worker

    if settings.workers == 1:
        return run_worker(settings)
    from hyperact.service.logs import configure_logs
    from hyperact.service.supervisor import supervise

    configure_logs(settings.log_format, settings.log_level)
    try:
        return supervise(settings, run_worker)
    except OSError as error:
        sys.stderr.write(f"cannot serve on {settings.address}: {error.strerror}\n")
        return 1


def health(settings: HealthSettings) -> int:
    """Ask a service whether it is ready: exit code 0 if so, 1 if not."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from hyperact.v1.channels import open_channel

    with open_channel(settings.address, settings) as channel:
        try:
            request = health_pb2.HealthCheckRequest()
            response = health_pb2_grpc.HealthStub(channel).Check(request, timeout=settings.timeout_seconds)
        except grpc.RpcError as error:
            sys.stdout.write(f"{settings.address} does not answer: {error.code().name}: {error.details()}\n")
            return 1
    is_ready = response.status == health_pb2.HealthCheckResponse.SERVING
    sys.stdout.write(f"{settings.address} is {'ready' if is_ready else 'not ready; hyperact status tells why'}\n")
    return 0 if is_ready else 1


def token(settings: TokenSettings) -> int:
    """Make a token for a caller: itself on standard output, once; what the credentials file needs on standard error."""
    import json
    import secrets

    from hyperact.service.credentials import hash_token

    made = f"hyperact_{secrets.token_urlsafe(32)}"
    table = [
        f"[callers.{json.dumps(settings.name)}]",
        f"roles = {json.dumps(sorted(settings.roles))}",
        f"tokens = [{json.dumps(hash_token(made))}]",
    ]
    sys.stderr.write("\n".join(table) + "\n")
    sys.stdout.write(made + "\n")
    return 0
