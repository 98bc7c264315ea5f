"""A running Evergrant and a provider behind it, over real sockets."""

import asyncio
import threading
from datetime import UTC, datetime

import httpx
import pytest
import uvicorn
from starlette.responses import JSONResponse, RedirectResponse
from starlette.routing import Route

from tests.api.conftest import KEY, World
from tests.clock import FakeClock
from worker.client import TokenClient

USER = "google-oauth2|104"


class Site(World):
    """The deployment, served; `provider` is an API that accepts one access token at a time."""

    def __init__(self, engine, vault):
        super().__init__(engine, vault, FakeClock(datetime.now(UTC)))
        self.accepted = "at-0"
        self.seen = []
        self.routes = [
            Route("/provider/me", self._me, methods=["GET", "POST"]),
            Route("/provider/moved", self._moved),
        ]
        self.asked = 0
        find = self.repository.find_many
        self.repository.find_many = lambda asks: self._counted(find, asks)

    def _counted(self, find, asks):
        self.asked += len(asks)
        return find(asks)

    async def _me(self, request):
        body = await request.body()
        self.seen.append((request.headers.get("authorization"), body.decode()))
        if request.headers.get("authorization") != f"Bearer {self.accepted}":
            return JSONResponse({"error": "invalid_token"}, status_code=401)
        return JSONResponse({"name": "Ada"})

    async def _moved(self, _request):
        return RedirectResponse(f"http://localhost:{self.port}/provider/me")

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def me(self):
        return f"{self.url}/provider/me"

    def rotate(self, grant):
        """The provider no longer takes the present token; a renewal brings the next."""
        self.clock.advance(30)
        successor = f"at-{self.grants.row(grant).generation + 1}"
        self.accepted = successor
        self.renewer.on_hint = lambda: self.grants.renew(grant, successor)


@pytest.fixture
def site(sqlite_engine, vault):
    site = Site(sqlite_engine, vault)
    config = uvicorn.Config(site.app(), port=0, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    while not server.started:  # uvicorn offers no event to wait for
        thread.join(0.01)
    site.port = server.servers[0].sockets[0].getsockname()[1]
    yield site
    server.should_exit = True
    thread.join()


@pytest.fixture
def tokens(site):
    with TokenClient(site.url, KEY, tenant="acme") as tokens:
        yield tokens


@pytest.fixture
def provider():
    with httpx.Client(timeout=10) as client:
        yield client
