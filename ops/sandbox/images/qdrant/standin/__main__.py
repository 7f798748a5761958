"""Start both servers in the current folder; stop on SIGTERM with everything on disk, exit 0."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

STOPS = (signal.SIGTERM, signal.SIGINT)
# They wait until they are asked for. To a container's first process one that comes before would
# be lost; and later another thread could take it, and wake nobody.
signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)

from .lean import leave_the_clients  # noqa: E402

leave_the_clients()

from . import VERSION, rest, rpc  # noqa: E402
from .config import load  # noqa: E402
from .service import Service  # noqa: E402


def main() -> int:
    print(f"STAND-IN for qdrant {VERSION}, built on qdrant-edge-py; not the real server")
    try:
        config = load(Path.cwd(), os.environ)
    except ValueError as error:
        print(f"stand-in: {error}", file=sys.stderr)
        return 1
    if not config.api_key:
        print("WARN no service.api_key: everybody may do everything")
    service = Service(config)
    grpc_server = rpc.serve(service)
    http_server = rest.Server(service)
    threading.Thread(target=http_server.serve_forever, daemon=True).start()
    print(f"REST on {config.host}:{config.http_port}, gRPC on {config.grpc_port}", flush=True)
    signal.sigwait(STOPS)
    http_server.stop()
    if grpc_server:
        grpc_server.stop(grace=5).wait()
    service.store.close()
    print("stopped, everything is on disk")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
