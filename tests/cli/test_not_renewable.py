"""What cannot be renewed is said per connection, with the setting that mends it and who is meant.

Early by the doctor, from Auth0's own list, before anybody has come; later by the doctor,
`providers check` and `grants explain`, with the grants and users concerned.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from tests.clock import FakeClock
from tests.grants import GrantTable
from tests.sync.test_on_the_rehearsal_tenant import management_of
from worker.auth0.answers import connection_of
from worker.cli.concerns import mending
from worker.cli.foreseeing import foreseen
from worker.cli.providers import SAID_ANYWAY, connection_rows
from worker.providers import load_catalogue
from worker.rehearsal import ConnectionSpec, StageSettings, rehearsal
from worker.store.audit import AuditLog
from worker.store.connections import ConnectionRepository
from worker.store.handout import HandoutRepository
from worker.store.tenants import TenantRepository
from worker.sync.options import config_of
from worker.sync.problems import problems_of


@dataclass(frozen=True, kw_only=True)
class Case:
    profile: str
    says: tuple[str, ...]  # words that the operator needs to read
    options: dict[str, Any] = field(default_factory=dict)
    top: dict[str, Any] = field(default_factory=dict)
    reason: str = "not_renewable"  # as the grant's row has it
    by_finding: bool = False  # told of the connection; a grant that is held goes on renewing


CASES = {
    "developer-keys": Case(
        profile="google-oauth2",
        options={"client_id": "", "client_secret": ""},
        says=("Auth0's developer keys", "Register a client at Google"),
    ),
    "google-offline": Case(
        profile="google-oauth2",
        reason="no_refresh_token",
        says=("access_type=offline and prompt=consent", "upstream_params"),
    ),
    "entra-offline": Case(
        profile="waad",
        options={"scope": ["User.Read"]},
        reason="no_refresh_token",
        says=("does not ask for offline_access", "connection's scopes"),
    ),
    "entra-not-stored": Case(
        profile="waad",
        options={"ext_refresh_token": False, "scope": ["offline_access"]},
        says=("Turn ext_refresh_token on", "log in once more"),
    ),
    "dpop": Case(
        profile="oidc",
        options={"type": "back_channel", "dpop_signing_alg": "ES256"},
        says=("DPoP", "dpop_signing_alg"),
    ),
    "key-of-auth0": Case(
        profile="oidc",
        options={"type": "back_channel", "token_endpoint_auth_method": "private_key_jwt"},
        says=("private_key_jwt", "set `private_key`"),
    ),
    "front-channel": Case(
        profile="oidc",
        options={"type": "front_channel"},
        says=("id_token only", "Back Channel"),
    ),
    "token-vault": Case(
        profile="bitbucket",
        top={"connected_accounts": {"active": True}},
        says=("Connected Accounts (Token Vault)",),
        by_finding=True,
    ),
    "apple-key": Case(
        profile="apple",
        options={"team_id": None, "kid": None},
        says=("team_id and kid (key_id)", "evergrant.toml"),
    ),
    "sharepoint-acs": Case(
        profile="sharepoint",
        says=("2026-04-02", "waad connection", "https://TENANT.sharepoint.com"),
    ),
}
ROSA = {"developer-keys": "rosa", "google-offline": "rita"}  # one strategy: one Auth0 user each


@pytest.fixture(scope="module")
def stage() -> Iterator[Any]:
    specs = [
        ConnectionSpec(name=name, profile=case.profile, options=case.options, top=case.top)
        for name, case in CASES.items()
    ]
    well = ConnectionSpec(name="well", profile="bitbucket")
    with rehearsal(StageSettings(connections=[*specs, well])) as running:
        for spec in specs:
            running.login(spec.name, ROSA.get(spec.name, f"rosa-{spec.name}"))
        yield running


@pytest.fixture
def clock():
    return FakeClock(datetime(2026, 11, 28, tzinfo=UTC))  # when the facts were looked at


@pytest.fixture
def base(sqlite_engine, vault, clock):
    return SimpleNamespace(
        engine=sqlite_engine,
        clock=clock,
        catalogue=load_catalogue({}, allow_loopback=False),
        connections=lambda: ConnectionRepository(sqlite_engine, vault),
    )


@pytest.fixture
def api(stage, sqlite_engine, vault):
    return management_of(stage, "unlimited", FakeClock(), TenantRepository(sqlite_engine, vault))


async def told_of(name: str, base: Any, api: Any) -> list[str]:
    label = f"connection {api.tenant}/{name}"
    return [finding.told for finding in await foreseen(base, api) if finding.name == label]


@pytest.mark.parametrize("name", CASES)
async def test_the_doctor_tells_before_anybody_has_come(base, api, name):
    [told] = await told_of(name, base, api)
    for word in CASES[name].says:
        assert word in told
    assert "(1 user at Auth0; none of their tokens is held here)" in told


async def test_what_is_well_and_what_is_known_is_not_told_twice(base, api, grants_of):
    assert await told_of("well", base, api) == []
    await grants_of("dpop")
    assert await told_of("dpop", base, api) == []


async def test_a_search_that_is_refused_hides_nothing(base, api, stage):
    stage.do("faults", provider="auth0", profile="search_refused")
    try:
        [told] = await told_of("dpop", base, api)
    finally:
        stage.do("clear_faults")
    assert told.endswith("(Auth0 does not tell how many users have it)")


async def test_what_is_switched_off_here_is_not_told(base, api, sqlite_engine, vault):
    off = {("acme", "dpop"): {"enabled": False}}
    base.connections = lambda: ConnectionRepository(sqlite_engine, vault, overrides=off)
    assert await told_of("dpop", base, api) == []


async def test_what_the_operator_mended_here_is_not_told(base, api, sqlite_engine, vault):
    """The client that evergrant.toml names is no developer key."""
    ours = {("acme", "developer-keys"): {"client_id": "ours", "client_secret": None}}
    base.connections = lambda: ConnectionRepository(sqlite_engine, vault, overrides=ours)
    told = await told_of("developer-keys", base, api)
    assert not any("Register a client" in one for one in told)


@pytest.fixture
def grants_of(base, api, vault, clock):
    """The connection as a pull remembers it, with three users' grants as a merge leaves them."""

    async def grants_of(name: str) -> list[Any]:
        table, case = GrantTable(base.engine, vault, clock), CASES[name]
        found = await api.connection_by_name(name)
        base.connections().put(config_of("acme", found, now=clock.now()), options_seen=True)
        held = HandoutRepository(base.engine, AuditLog("n1"))
        return [
            held.by_id(
                table.add(
                    connection=name,
                    provider=case.profile,
                    strategy=case.profile,
                    renewable=False,
                    reason=case.reason,
                    refresh_token=None,
                    identity_user_id=str(number),
                    user_id=f"{case.profile}|{number}",
                )
            )
            for number in range(3)
        ]

    return grants_of


@pytest.mark.parametrize("name", [name for name in CASES if not CASES[name].by_finding])
async def test_it_is_told_with_the_grants_and_users_concerned(base, grants_of, name):
    [one, *_] = await grants_of(name)
    [row] = connection_rows(base, "acme")
    told = [row["problem"], *row["concerns"]]
    explained = mending(base, one)
    for word in CASES[name].says:
        assert any(word in sentence for sentence in told), told
        assert word in explained
    assert explained.endswith("(2 other users of the connection are concerned)")
    if CASES[name].reason == "no_refresh_token":
        assert row["concerns"][0].endswith("(3 grants, 3 users)")
    else:
        assert (row["grants"], row["concerns"], row["advice"]) == (3, [], "")  # said once


@pytest.mark.parametrize("profile", ["mailchimp", "github", "twitter", "untappd"])
def test_tokens_that_never_end_are_no_problem(base, vault, clock, profile):
    """`providers check` would fail for ever over a connection that is well."""
    table = GrantTable(base.engine, vault, clock)
    table.add_connection("lasting", strategy=profile, client_id="ours", options={})
    base.connections = lambda: ConnectionRepository(
        base.engine, vault, overrides={("acme", "lasting"): {"provider": profile}}
    )
    [row] = connection_rows(base, "acme")
    assert row["problem"] == ""


def test_a_finding_is_left_out_only_where_a_sentence_says_the_same():
    body = {"name": "x", "strategy": "google-oauth2", "options": {"client_id": ""}}
    connection = connection_of(body)
    assert problems_of(connection, None, had_admin=False, has_admin=False) <= SAID_ANYWAY
