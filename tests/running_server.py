"""A server in this process, and what a client needs to talk to it."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import processes  # noqa: F401 (decoders are forked from the server process that it asks for)
import uvicorn

from videobench.serving.app import make_app
from videobench.serving.service import Service

# Machines that run tests may be slow.
PATIENCE = 120


@dataclass(frozen=True)
class Reply:
    """What a server answered."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def outcome(self) -> tuple[int, str]:
        """Status and code."""
        return self.status, self.json.get("error", "ok")


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: bytes | Iterable[bytes] | None = None, kind: str = "") -> Reply:
        """A request, and its answer; a body in pieces goes out without its length."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, {"Content-Type": kind} if kind else {})
            reply = connection.getresponse()
            return Reply(reply.status, reply.headers, reply.read())
        finally:
            connection.close()

    def send(self, video: bytes | Iterable[bytes], query: str = "") -> Reply:
        """A video, and its answer."""
        return self.ask("POST", f"/predict{query}", video, "application/octet-stream")

    def send_form(self, *fields: tuple[str, bytes], name: str = "video.mp4", end: bytes = b"--") -> Reply:
        """Files in fields of a form."""
        body = b"".join(
            f'--border\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'.encode()
            + content
            + b"\r\n"
            for field, content in fields
        )
        return self.ask("POST", "/predict", body + b"--border" + end + b"\r\n", "multipart/form-data; boundary=border")

    @contextmanager
    def half_sent(self, video: bytes) -> Iterator[tuple[socket.socket, bytes]]:
        """A connection that half of a video went through, and the other half."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as connection:
            head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(video)}\r\n\r\n"
            connection.sendall(head.encode() + video[: len(video) // 2])
            yield connection, video[len(video) // 2 :]

    def requests(self) -> int:
        """How many videos are worked on or wait."""
        return self.ask("GET", "/health").json["requests"]

    def count(self, name: str, **labels: str) -> float:
        """A number of /metrics."""
        wanted = {f'{key}="{value}"' for key, value in labels.items()}
        for line in self.ask("GET", "/metrics").body.decode().splitlines():
            found, _, value = line.partition(" ")
            if found.partition("{")[0] == name and wanted <= set(found.rstrip("}").partition("{")[2].split(",")):
                return float(value)
        return 0.0


def reply_of(connection: socket.socket) -> Reply:
    """The answer that comes through a connection."""
    reply = http.client.HTTPResponse(connection)
    reply.begin()
    return Reply(reply.status, reply.headers, reply.read())


@contextmanager
def running(service: Service) -> Iterator[Address]:
    """A server in a thread."""
    with service, socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(make_app(service), lifespan="off", log_level="critical")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield Address(listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(PATIENCE)


def until(true: Callable[[], bool], what: str) -> None:
    """Wait for something that must happen."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, f"{what} did not happen"
        time.sleep(0.02)
