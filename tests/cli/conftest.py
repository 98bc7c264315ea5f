"""The whole product, as processes, against a rehearsal tenant."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.canary import Hit, hunt
from worker.cli.demo_product import Product, running
from worker.rehearsal import (
    ConnectionSpec,
    RunningStage,
    StageSettings,
    rehearsal,
    webhooks,
    write_config,
)
from worker.rehearsal.config import TENANT

CONNECTIONS = (
    ConnectionSpec(name="google-oauth2", profile="google-oauth2"),
    ConnectionSpec(name="acme-bitbucket", profile="bitbucket"),
)
PATIENCE = 60.0  # seconds; the machine that runs the suite may be busy


@dataclass
class Running:
    """A product and the stage it works for."""

    stage: RunningStage
    product: Product
    directory: Path
    environment: dict[str, str]

    def login(self, connection: str, subject: str) -> str:
        return self.stage.login(connection, subject)

    def renewals(self) -> int:
        """As the providers counted them."""
        return int(self.stage.ledger()["total"]["exchanges"])

    def secrets(self) -> list[str]:
        """Every token and client secret there is to leak: the stage issued or made them."""
        stage = self.stage.stage
        tokens = [
            token
            for user in stage.tenant.users.values()
            for identity in user.identities
            for token in (identity.access_token, identity.refresh_token)
        ]
        clients = [c.secret for p in stage.providers.values() for c in p.clients.values()]
        found = [secret for secret in (*tokens, *clients) if secret]
        assert len(found) >= 4
        return found

    def leaks(self) -> list[Hit]:
        """Where any of them lies in the clear: data directory and log."""
        places = [self.directory / "data", self.product.log]
        return hunt(self.secrets(), places)

    def wait_for(self, what: Callable[[], object], seconds: float = PATIENCE) -> None:
        until = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < until, self.product.log.read_text()[-4000:]
            time.sleep(0.1)

    def wait_for_renewals(self, more: int) -> None:
        wanted = self.renewals() + more
        self.wait_for(lambda: self.renewals() >= wanted)


@contextmanager
def started(directory: Path, *, lifetime: float = 3, **settings: str) -> Iterator[Running]:
    with ExitStack() as stack:
        stage = stack.enter_context(
            rehearsal(StageSettings(lifetimes={"*": lifetime}, pace=0.2, connections=CONNECTIONS))
        )
        config = write_config(directory / "evergrant.toml", stage.stage)
        environment = {
            "EVERGRANT_CONFIG": str(config),
            "EVERGRANT_ALLOW_LOOPBACK": "1",
            "EVERGRANT_TICK": "0.25",
            "EVERGRANT_CONFIRM_AFTER": "3",
            **settings,
        }
        product = stack.enter_context(running(directory, environment))
        stage.do("send_to", **webhooks(product.url))
        environment["EVERGRANT_DATA_DIR"] = str(directory / "data")
        environment["EVERGRANT_PORT"] = product.url.rsplit(":", 1)[1]
        yield Running(stage, product, directory, environment)


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One product on embedded defaults for all tests of a module, with two users logged in."""
    with started(tmp_path_factory.mktemp("embedded"), lifetime=20) as running_:
        running_.login("google-oauth2", "rosa")
        running_.login("acme-bitbucket", "emil")
        running_.wait_for(lambda: len(running_.product.status()["providers"]) == 2)
        yield running_


__all__ = ["TENANT", "Running", "embedded", "started"]
