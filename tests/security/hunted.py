"""The whole product, trusted with canaries, and every place where one of them might come to lie."""

from __future__ import annotations

import base64
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from tests.canary import Hit, canary, hunt, hunt_bytes
from tests.servers import free_port
from worker.cli.demo_product import Product, running
from worker.rehearsal import (
    ConnectionSpec,
    RunningStage,
    StageSettings,
    profiles,
    rehearsal,
    webhooks,
    write_config,
)
from worker.rehearsal.config import (
    ACTIONS_SECRET,
    EVENTS_BEARER,
    LOGS_AUTHORIZATION,
    TENANT,
)
from worker.rehearsal.tenant_tokens import TenantTokens
from worker.store.engine import open_engine
from worker.store.tables import Base

PATIENCE = 60.0  # seconds; the machine that runs the suite may be busy
GOOGLE, BITBUCKET = "google-oauth2", "acme-bitbucket"
FLOWER_TASKS = "/tasks/datatable?draw=1&start=0&length=100&order[0][column]=0&order[0][dir]=asc"
FLOWER_PAGES = (
    *("/tasks", "/workers", "/broker", "/metrics", "/api/tasks", "/api/workers"),
    FLOWER_TASKS + "&columns[0][data]=name&search[value]=",
)


@dataclass
class Birds:
    """The canaries. Those that look like no known token, so that no redaction hides a leak."""

    access: str = field(default_factory=lambda: canary("access", "~="))
    refresh: str = field(default_factory=lambda: canary("refresh", "~="))
    auth0: str = field(default_factory=lambda: canary("auth0-client-secret", "~="))
    harvested: list[str | bytes] = field(default_factory=list)  # client secrets, keys, our tokens

    def all(self) -> list[str | bytes]:
        own = (self.access, self.refresh, self.auth0)
        return [*own, *self.harvested, ACTIONS_SECRET, EVENTS_BEARER, LOGS_AUTHORIZATION]


@dataclass
class Hunted:
    """A product at work, its stage, and what it has said so far."""

    birds: Birds
    stage: RunningStage
    product: Product
    directory: Path
    environment: dict[str, str]
    files: Callable[[], list[Path]]  # the store's and the broker's, flushed
    said: dict[str, bytes] = field(default_factory=dict)  # answers, pages, output of commands

    def login(self, connection: str, subject: str) -> str:
        return self.stage.login(connection, subject)

    def get(self, path: str, **more: Any) -> httpx.Response:
        """Ask the product, and keep what it says for the hunt."""
        key = {"Authorization": f"Bearer {self.product.api_key}"}
        answer = httpx.request(
            more.pop("method", "GET"),
            self.product.url + path,
            headers={**key, **more.pop("headers", {})},
            trust_env=False,
            timeout=20,
            **more,
        )
        self.said[path] = repr(answer.headers).encode() + answer.content
        return answer

    def command(self, *arguments: str) -> None:
        """Run `evergrant …`, and keep what it says."""
        done = subprocess.run(
            [sys.executable, "-m", "worker.cli", *arguments],
            env={**os.environ, **self.environment},
            cwd=self.directory,
            capture_output=True,
            timeout=PATIENCE,
        )
        self.said[" ".join(arguments)] = done.stdout + done.stderr
        assert b"Traceback" not in done.stderr, done.stderr

    def renewals(self) -> int:
        return int(self.stage.ledger()["total"]["exchanges"])

    def wait_for(self, what: Callable[[], object]) -> None:
        until = time.monotonic() + PATIENCE
        while not what():
            assert time.monotonic() < until, self.product.log.read_text()[-6000:]
            time.sleep(0.1)

    def wait_for_renewals(self, more: int) -> None:
        wanted = self.renewals() + more
        self.wait_for(lambda: self.renewals() >= wanted)

    def state_of(self, user_id: str, connection: str) -> str | None:
        return self.product.grant_states(TENANT, user_id).get(connection)

    def kill_worker(self) -> None:
        """`kill -9`, in the midst of whatever it does; the supervisor starts another."""
        os.kill(self.child("worker"), signal.SIGKILL)

    def child(self, role: str) -> int:
        parent = self.product.process.pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        told = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
        return next(int(pid) for pid, line in told.items() if role.encode() in line.split(b"\0"))

    def hits(self) -> list[Hit]:
        """Every place, searched anew."""
        birds = self.birds.all()
        places = [self.directory / "data", self.product.log, *self.files()]
        found = [*hunt(birds, places), *hunt_bytes(birds, self.rows(), "rows")]
        for where, content in self.said.items():
            found += hunt_bytes(birds, content, where)
        return found

    def rows(self) -> bytes:
        """All that a dump would hold, column by column, as no page compression hides it."""
        engine = open_engine(self.environment["EVERGRANT_DATABASE_URL"])
        with engine.connect() as connection:
            values = [
                value if isinstance(value, bytes) else str(value).encode()
                for table in Base.metadata.sorted_tables
                for row in connection.execute(select(table))
                for value in row
            ]
        engine.dispose()
        return b"\n".join(values)


@contextmanager
def hunted(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    files: Callable[[], list[Path]],
    **settings: str,
) -> Iterator[Hunted]:
    """The product with its logs at DEBUG, on a stage whose every secret is a canary."""
    birds = Birds()
    _keep_our_auth0_tokens(birds, monkeypatch)
    with ExitStack() as stack:
        stage = stack.enter_context(rehearsal(_singing(birds)))
        secrets_ = [c.secret for p in stage.stage.providers.values() for c in p.clients.values()]
        birds.harvested += secrets_
        environment = {
            "EVERGRANT_CONFIG": str(write_config(directory / "evergrant.toml", stage.stage)),
            "EVERGRANT_KEYRING": str(directory / "keyring.json"),  # the one place for keys
            "EVERGRANT_ALLOW_LOOPBACK": "1",
            "EVERGRANT_LOG_LEVEL": "debug",
            "EVERGRANT_TICK": "0.25",
            "EVERGRANT_CONFIRM_AFTER": "1",
            **settings,
        }
        product = stack.enter_context(running(directory, environment))
        stage.do("send_to", **webhooks(product.url))
        database = f"sqlite:///{directory}/data/evergrant.db"
        environment.setdefault("EVERGRANT_DATABASE_URL", database)
        environment["EVERGRANT_DATA_DIR"] = str(directory / "data")
        environment["EVERGRANT_PORT"] = product.url.rsplit(":", 1)[1]
        birds.harvested += [product.api_key, *_keys(directory / "keyring.json")]
        yield Hunted(birds, stage, product, directory, environment, files)


def _singing(birds: Birds) -> StageSettings:
    prefixes = {"access_prefix": birds.access, "refresh_prefix": birds.refresh}
    return StageSettings(
        client_secret=birds.auth0,
        connections=(
            ConnectionSpec(name=GOOGLE, profile="google-oauth2"),
            ConnectionSpec(name=BITBUCKET, profile="bitbucket"),
        ),
        profiles={
            name: replace(profiles()[name], **prefixes) for name in ("google-oauth2", "bitbucket")
        },
        lifetimes={"*": 2},
        pace=0.2,
    )


def _keep_our_auth0_tokens(birds: Birds, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Management API tokens that the tenant gives us are secrets too."""
    issue = TenantTokens._issue

    def issuing(self: TenantTokens, audience: str) -> dict[str, Any]:
        answer = issue(self, audience)
        birds.harvested.append(answer["access_token"])
        return answer

    monkeypatch.setattr(TenantTokens, "_issue", issuing)


def _keys(keyring: Path) -> Iterator[str | bytes]:
    for key in json.loads(keyring.read_text())["keys"]:
        yield base64.b64decode(key["key"])
        yield key["key"]


@contextmanager
def flower(product: Hunted) -> Iterator[Callable[[], Mapping[str, bytes]]]:
    """Flower beside the product; the function gives its pages, for the hunt."""
    port, password = free_port(), secrets.token_urlsafe(16)
    process = subprocess.Popen(
        [sys.executable, "-m", "worker.cli", "flower"],
        env={
            **os.environ,
            **product.environment,
            "EVERGRANT_FLOWER_PORT": str(port),
            "EVERGRANT_FLOWER_BASIC_AUTH": f"ops:{password}",
        },
        cwd=product.directory,
        stdout=(product.directory / "data" / "flower.log").open("wb"),
        stderr=subprocess.STDOUT,
    )
    http = httpx.Client(
        base_url=f"http://127.0.0.1:{port}", auth=("ops", password), trust_env=False, timeout=20
    )

    def up() -> bool:
        try:
            return http.get("/healthcheck").status_code == 200
        except httpx.TransportError:
            return False

    try:
        product.wait_for(up)
        yield lambda: {page: http.get(page).content for page in FLOWER_PAGES}
    finally:
        http.close()
        process.terminate()
        process.wait(20)
