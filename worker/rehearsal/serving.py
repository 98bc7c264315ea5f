"""Running a stage: in the foreground for a terminal, or in a thread for tests and the demo.

Each provider listens on a port of its own, because a client rightly paces, blocks and pins *hosts*:
one misbehaving provider must not look like all of them.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn

from .app import build_app
from .stage import Stage, StageSettings
from .wire import Protocol


class NoPlaceError(Exception):
    """A port is taken, or there is no such port or host."""


class ControlError(Exception):
    """The control desk refused a command; the message says why."""


@dataclass(slots=True)
class StageClient:
    """The control desk of a stage, here or in another process. Safe from any thread."""

    base_url: str
    _http: httpx.Client = field(repr=False, init=False)

    def __post_init__(self) -> None:
        # Plain http: reading the CA bundle for nothing takes longer than starting the stage.
        self._http = httpx.Client(
            base_url=self.base_url,
            timeout=30,
            trust_env=False,
            verify=False,  # noqa: S501
        )

    def do(self, command: str, **arguments: Any) -> Any:
        """Give a command (`GET /control` lists them). Raises ControlError."""
        response = self._http.post(f"/control/{command}", json=arguments)
        body = response.json()
        if response.status_code != 200:
            raise ControlError(body["error"])
        return body["result"]

    def login(self, connection: str, subject: str, **arguments: Any) -> str:
        """A login through `connection`; returns the Auth0 user id."""
        return str(self.do("login", connection=connection, subject=subject, **arguments))

    def about(self) -> dict[str, Any]:
        """Addresses, connections, commands, names of faults."""
        return dict(self._http.get("/control").json())

    def ledger(self) -> dict[str, Any]:
        """Totals; see `worker.rehearsal.ledger.Counts` for the meaning of each."""
        return dict(self._http.get("/ledger").json())

    def grants(self, **filters: str) -> list[dict[str, Any]]:
        """The ledger per grant; filters: provider, subject."""
        return list(self._http.get("/ledger/grants", params=filters).json())

    def close(self) -> None:
        self._http.close()


@dataclass(slots=True)
class RunningStage(StageClient):
    """A stage that runs in a thread of this process."""

    stage: Stage
    _loop: asyncio.AbstractEventLoop = field(repr=False)

    def call(self, do: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run `do` in the stage's own thread, for what the control desk does not offer."""

        async def run() -> Any:
            return do(*args, **kwargs)

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(30)


@contextmanager
def rehearsal(
    settings: StageSettings | None = None, *, host: str = "127.0.0.1", port: int = 0
) -> Iterator[RunningStage]:
    """A stage on free ports for as long as the block lasts."""
    stage = Stage(settings or StageSettings())
    loop = asyncio.new_event_loop()
    server, sockets = _server(stage, host, port)
    thread = threading.Thread(
        target=lambda: loop.run_until_complete(_play(stage, server, sockets)),
        name="rehearsal",
        daemon=True,
    )
    thread.start()
    try:
        running = RunningStage(stage.base_url, stage, loop)
        running.about()  # the sockets listen already: this waits for the loop behind them
        yield running
        running.close()
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)
        loop.close()


def serve(
    settings: StageSettings | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8400,
    ready: Callable[[Stage], None] = lambda stage: None,
) -> None:
    """Play in the foreground until SIGINT or SIGTERM.

    The tenant stands at `port`, the providers at the ports that follow (0: all on free ones).
    Raises: NoPlaceError. `ready` is called once the addresses are known, before the first request.
    """
    stage = Stage(settings or StageSettings())
    server, sockets = _server(stage, host, port)
    ready(stage)
    asyncio.run(_play(stage, server, sockets))


async def _play(stage: Stage, server: uvicorn.Server, sockets: Sequence[socket.socket]) -> None:
    try:
        await server.serve(sockets=list(sockets))
    finally:
        await stage.stop()


def _server(stage: Stage, host: str, port: int) -> tuple[uvicorn.Server, list[socket.socket]]:
    """Raises: NoPlaceError, a port is taken, or there is no such host."""
    names = stage.profile_names
    sockets = [_listening(host, port + n if port else 0) for n in range(len(names) + 1)]
    urls = [f"http://{host}:{sock.getsockname()[1]}" for sock in sockets]
    stage.bind(urls[0], dict(zip(names, urls[1:], strict=True)))
    config = uvicorn.Config(
        build_app(stage),
        http=Protocol,
        ws="none",
        lifespan="off",
        log_level="critical",
        access_log=False,
        server_header=False,
        backlog=2048,
        timeout_keep_alive=30,
    )
    return uvicorn.Server(config), sockets


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as TCP, asyncio turns Nagle's algorithm off for what is accepted: 40 ms an answer.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except (OSError, OverflowError) as error:
        sock.close()
        why = getattr(error, "strerror", None) or "no such port"
        raise NoPlaceError(f"cannot listen on {host}:{port}: {why}") from None
    sock.listen(2048)  # before anybody asks: a request that comes early waits
    return sock
