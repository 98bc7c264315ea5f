"""Many tenants in one deployment, with real parts: what befalls one is not felt by another.

One process tree on PostgreSQL and Redis serves two stages, each an Auth0 tenant with providers of
its own. `busy` is in trouble of one kind after the other, with hundreds of users on their way;
`quiet` has a login then, and a grant that has to be renewed every few seconds all the while.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import func, select

from tests.cli.conftest import CONNECTIONS, PATIENCE
from worker.cli.demo_product import Product, running
from worker.rehearsal import RunningStage, StageSettings, rehearsal, webhooks, write_configs
from worker.store import migrate
from worker.store.engine import open_engine, reading
from worker.store.tables import GrantRow

GOOGLE = "google-oauth2"
# (how its Management API, or its token endpoint, misbehaves)
SHORT = [("hang", "management"), ("rate_limited", "management")]
LONG = [*SHORT, ("hang", "token"), ("trickle", "management"), ("unavailable", "management")]


@dataclass
class Deployment:
    busy: RunningStage
    quiet: RunningStage
    product: Product
    database: str
    logins: int = 0

    def crowd(self, name: str, count: int) -> None:
        subjects = [f"{name}-{n}" for n in range(count)]
        self.busy.do("logins", connection=GOOGLE, subjects=subjects)

    def quiet_login(self) -> str:
        self.logins += 1
        return self.quiet.login("acme-bitbucket", f"rosa-{self.logins}")

    def has(self, user_id: str) -> bool:
        states = self.product.grant_states("quiet", user_id)
        return states.get("acme-bitbucket") == "active"

    def renewals(self) -> int:
        return int(self.quiet.ledger()["providers"]["google-oauth2"]["exchanges"])

    def grants(self, tenant: str, name: str) -> int:
        engine = open_engine(self.database)
        mine = (GrantRow.tenant == tenant, GrantRow.identity_user_id.startswith(name))
        with reading(engine) as connection:
            count = connection.execute(select(func.count()).select_from(GrantRow).where(*mine))
            found: int = count.scalar_one()
        engine.dispose()
        return found

    def metrics(self, name: str, **labels: str) -> dict[str, float]:
        """By tenant."""
        text = httpx.get(f"{self.product.url}/metrics", trust_env=False).text
        return {
            sample.labels["tenant"]: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        }

    def wait_for(self, what: Any) -> None:
        until = time.monotonic() + PATIENCE
        while not what():
            assert time.monotonic() < until, self.product.log.read_text()[-4000:]
            time.sleep(0.1)


@pytest.fixture
def deployment(tmp_path: Path, postgres_url: str, redis_url: str) -> Iterator[Deployment]:
    engine = open_engine(postgres_url)
    migrate.upgrade(engine)
    engine.dispose()
    with ExitStack() as stack:
        told: dict[str, Any] = {"pace": 0.05, "connections": CONNECTIONS}
        busy, quiet = (
            stack.enter_context(rehearsal(StageSettings(**told, **more)))
            for more in (
                {"domain": "busy.auth0.test", "lifetimes": {"*": 10}},
                {"domain": "quiet.auth0.test", "lifetimes": {"*": 2}, "seed": "quiet"},
            )
        )
        config = tmp_path / "evergrant.toml"
        write_configs(config, {"busy": busy.stage, "quiet": quiet.stage})
        environment = {
            "EVERGRANT_CONFIG": str(config),
            "EVERGRANT_ALLOW_LOOPBACK": "1",
            "EVERGRANT_TICK": "0.25",
            "EVERGRANT_DATABASE_URL": postgres_url,
            "EVERGRANT_BROKER_URL": redis_url,
        }
        product = stack.enter_context(running(tmp_path, environment))
        for tenant, stage in (("busy", busy), ("quiet", quiet)):
            stage.do("send_to", **webhooks(product.url, tenant=tenant))
        one = Deployment(busy, quiet, product, postgres_url)
        quiet.login(GOOGLE, "emil")
        one.wait_for(lambda: one.renewals() >= 1)
        yield one


@pytest.mark.parametrize(
    ("troubles", "crowd"),
    [
        pytest.param(SHORT, 40, id="short"),
        pytest.param(LONG, 300, id="long", marks=pytest.mark.drill),
    ],
)
def test_trouble_of_one_tenant_delays_no_other(
    deployment: Deployment, troubles: list[tuple[str, str]], crowd: int
) -> None:
    """Each trouble lasts until the quiet tenant's login and renewals are through."""
    one = deployment
    one.crowd("early", crowd)  # a flood that is served as fast as it goes
    user_id = one.quiet_login()
    one.wait_for(lambda: one.has(user_id))
    one.wait_for(lambda: one.grants("busy", "early") == crowd)
    counted = one.metrics("evergrant_pulls_total", outcome="merged")
    assert counted["busy"] >= crowd
    assert 1 <= counted["quiet"] < crowd

    for trouble, endpoint in troubles:
        name = f"{trouble}-{endpoint}"
        one.busy.do("faults", provider="auth0", profile=trouble, endpoint=endpoint)
        if endpoint == "token":  # the one we have is not good any more
            refused = {"profile": "unavailable", "status": 401, "endpoint": "management"}
            one.busy.do("faults", provider="auth0", **refused)
        one.crowd(name, crowd)
        before, user_id = one.renewals(), one.quiet_login()
        one.wait_for(lambda user_id=user_id: one.has(user_id))
        one.wait_for(lambda before=before: one.renewals() >= before + 2)
        assert one.grants("busy", name) < crowd, name  # it did not wait until they were done
        one.busy.do("clear_faults")

    one.busy.do("faults", provider="*", profile="hang")  # with all of its grants due, or soon
    before, user_id = one.renewals(), one.quiet_login()
    one.wait_for(lambda: one.has(user_id))
    one.wait_for(lambda: one.renewals() >= before + 3)
    assert one.quiet.ledger()["total"]["reused"] == 0
    renewed = one.metrics("evergrant_tenant_renewals_total", verdict="renewed")
    assert renewed["quiet"] >= 3
    assert one.metrics("evergrant_tenant_grants_valid_ratio").keys() == {"busy", "quiet"}
