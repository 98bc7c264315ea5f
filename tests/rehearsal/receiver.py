"""An endpoint that webhooks are sent to: remembers what came, answers what it is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Received:
    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes
    at: float  # monotonic


@dataclass
class Receiver:
    url: str
    statuses: list[int] = field(default_factory=list)  # answers to come; then 202
    received: list[Received] = field(default_factory=list)

    def wait_for(self, enough: Callable[[list[Received]], bool], seconds: float = 5) -> None:
        deadline = time.monotonic() + seconds
        while not enough(self.received):
            assert time.monotonic() < deadline, f"only {len(self.received)} came"
            time.sleep(0.01)

    def take(self, got: Received) -> int:
        self.received.append(got)
        return self.statuses.pop(0) if self.statuses else 202


@contextmanager
def receiving() -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status = receiver.take(Received(self.path, headers, body, time.monotonic()))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver = Receiver(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
