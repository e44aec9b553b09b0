"""The work of tools/serve.py: a service behind uvicorn until a signal ends it."""

import ipaddress
import logging
import multiprocessing
import signal
import sys

import uvicorn

from videobench.serving import decoders
from videobench.serving.app import make_app
from videobench.serving.service import Service

logger = logging.getLogger(__name__)


def serve(service: Service, host: str, port: int) -> None:
    """Serve until SIGTERM or Ctrl-C; uploads that came in by then are answered first.

    Raises:
        SystemExit: with status 1 when the address cannot be had.
    """
    # uvicorn sends itself the signal again when it is done, which would end the process with files left behind.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    if not _loopback(host):
        logger.warning(
            "anyone who reaches %s port %d can use this server: it knows no users, and speaks plain HTTP", host, port
        )
    # Decoders are forked from a process that has the slow imports behind it.
    multiprocessing.set_forkserver_preload([decoders.__name__])
    with service:
        try:
            uvicorn.run(make_app(service), host=host, port=port, lifespan="off", access_log=False)
        except SystemExit as end:
            # 0 comes from the signal; for an address that is taken, uvicorn's number depends on its version.
            sys.exit(1 if end.code else 0)


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
