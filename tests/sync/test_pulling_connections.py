"""A connection read anew: its client, its problems, its administrator's tokens."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import update

from tests.clock import T0
from tests.sync.world import GOOGLE, ROSA, World, identity, iso
from worker.domain.errors import NotFoundError
from worker.domain.held import Ask
from worker.domain.secret import Secret
from worker.providers import load_catalogue
from worker.store.audit import AuditLog
from worker.store.connection_care import ConnectionCare
from worker.store.engine import writing
from worker.store.findings import FindingRepository
from worker.store.handout import HandoutRepository
from worker.store.tables import GrantRow
from worker.sync import PROBLEMS
from worker.sync.problems import SYNC_FAILED

WORKSPACE = {
    "id": "con_ws",
    "name": "acme-workspace",
    "strategy": "google-apps",
    "options": {
        "client_id": "client",
        "client_secret": "shh",
        "domain": "acme.example",
        "admin_access_token": "admin-at",
        "admin_refresh_token": "admin-rt",
        "admin_access_token_expiresin": iso(T0 + timedelta(minutes=40)),
    },
}


@pytest.fixture
def world(sqlite_engine, vault) -> World:
    return World(sqlite_engine, vault)


def without(body: dict, *options: str) -> dict:
    kept = {name: value for name, value in body["options"].items() if name not in options}
    return {**body, "options": kept}


async def read(world: World, body: dict, name: str | None = None) -> list[str]:
    """The problems found."""
    world.connection(body)
    await world.puller.connection("acme", name or body["name"])
    return list(world.findings.all("acme").get(body["name"], ()))


async def test_an_administrators_tokens_are_a_grant_of_the_connection(world):
    assert await read(world, WORKSPACE) == []
    row = world.grant("con_ws")
    assert world.tokens("con_ws") == ("admin-rt", "admin-at")
    assert (row.part, row.user_id, row.provider) == ("admin", None, "google-apps")
    assert row.expires_at == T0 + timedelta(minutes=40)
    assert T0 < row.due_at < row.expires_at


async def test_auth0s_own_renewal_of_an_admin_token_does_not_replace_a_living_one(world):
    await read(world, WORKSPACE)
    renewed = {**WORKSPACE["options"], "admin_access_token": "auth0s"}
    await read(world, {**WORKSPACE, "options": renewed})
    assert world.tokens("con_ws") == ("admin-rt", "admin-at")


async def test_an_admin_token_wiped_by_another_tool_is_kept_and_a_consent_asked_for(world):
    await read(world, WORKSPACE)
    wiped = without(WORKSPACE, "admin_access_token", "admin_refresh_token")
    assert await read(world, wiped) == ["consent_lost"]
    assert await read(world, wiped) == ["consent_lost"]  # still, at the next read
    assert world.tokens("con_ws") == ("admin-rt", "admin-at")


async def test_hidden_options_delete_nothing(world):
    await read(world, WORKSPACE)
    assert await read(world, {**WORKSPACE, "options": {}}) == ["options_hidden"]
    assert world.connections.get("acme", "acme-workspace").client_secret.text() == "shh"
    assert world.tokens("con_ws") == ("admin-rt", "admin-at")


async def test_a_swapped_client_is_noticed_and_remembered(world):
    await read(world, GOOGLE)
    swapped = {**GOOGLE, "options": {**GOOGLE["options"], "client_id": "another"}}
    assert await read(world, swapped) == ["client_swapped"]
    assert await read(world, swapped) == ["client_swapped"]
    care = ConnectionCare(world.engine, AuditLog("test"))
    assert care.clear("acme", "google-oauth2", actor="test", now=T0) == ["client_swapped"]
    assert await read(world, swapped) == []


@pytest.mark.parametrize(
    ("left", "code"),
    [({}, "client_lost"), ({"client_id": "", "client_secret": ""}, "developer_keys")],
    ids=["none is left", "Auth0's own is in its place"],
)
async def test_a_client_wiped_by_another_tool_is_kept_for_its_grants_and_told(world, left, code):
    """What was consented to is renewed; what logs in meanwhile is Auth0's own client's, or nobody's
    we know, and sent with ours it would stop the whole connection."""
    world.user(identity())
    await world.pull()
    assert await read(world, {**GOOGLE, "options": {"scope": ["x"], **left}}) == [code]
    config = world.connections.get("acme", "google-oauth2")
    assert (config.client_id, config.client_secret) == ("client", Secret("shh"))
    await world.pull()
    assert world.grant().renewable

    world.user(identity("rt-dev", "at-dev", user_id="2"), user_id="google-oauth2|2")
    await world.pull("google-oauth2|2")
    assert (world.grant("2").renewable, world.grant("2").reason) == (False, "not_renewable")

    assert await read(world, GOOGLE) == []
    await world.pull("google-oauth2|2")
    assert world.grant("2").renewable


TROUBLES = {
    "developer keys": ({"options": {"client_id": "", "client_secret": ""}}, "developer_keys"),
    "token vault": ({"connected_accounts": {"active": True}}, "token_vault"),
    "tokens not stored": (
        {"options": {"client_id": "c", "ext_refresh_token": False}},
        "tokens_not_stored",
    ),
}


@pytest.mark.parametrize(("change", "code"), TROUBLES.values(), ids=TROUBLES)
async def test_what_keeps_a_connection_from_being_renewed_is_said_and_goes_away(
    world, change, code
):
    assert await read(world, {**GOOGLE, **change}) == [code]
    assert code in PROBLEMS
    mended = await read(world, GOOGLE)
    assert code not in mended


async def test_a_connection_is_found_by_its_id_too(world):
    await read(world, GOOGLE, name="con_google")
    assert world.connections.get("acme", "google-oauth2").id == "con_google"


async def test_a_deleted_connection_is_noted(world):
    await read(world, GOOGLE)
    world.auth0.on("/connections/con_google", (404, {}))
    world.auth0.on("/connections", (200, []))
    with pytest.raises(NotFoundError):
        await world.puller.connection("acme", "google-oauth2")
    assert world.connections.get("acme", "google-oauth2") is None


async def test_that_a_connection_is_gone_is_told_once_for_its_users_are_gone_with_it(
    sqlite_engine, vault
):
    told: list[str] = []

    async def gone(tenant: str) -> None:
        told.append(tenant)

    world = World(sqlite_engine, vault, on_connection_gone=gone)
    await read(world, GOOGLE)
    world.auth0.on("/connections/con_google", (404, {}))
    world.auth0.on("/connections", (200, []))
    for _ in range(3):
        with pytest.raises(NotFoundError):
            await world.puller.connection("acme", "google-oauth2")
    assert told == ["acme"]


async def test_one_404_is_not_enough_to_call_a_connection_gone(world):
    """Its grants would not be renewed any more, until somebody came through it."""
    await read(world, GOOGLE)
    world.auth0.on("/connections/con_google", (404, {}))
    await world.puller.connection("acme", "google-oauth2")
    assert world.connections.get("acme", "google-oauth2") is not None


async def test_a_connection_made_anew_under_its_name_is_read_at_once(sqlite_engine, vault):
    """What its first logins bring belongs to its own client; the users of before are gone."""
    told: list[str] = []

    async def gone(tenant: str) -> None:
        told.append(tenant)

    world = World(sqlite_engine, vault, on_connection_gone=gone)
    world.user(identity())
    await world.pull()
    options = {**GOOGLE["options"], "client_id": "another"}
    world.connection({**GOOGLE, "id": "con_again", "options": options})
    world.auth0.on("/connections/con_google", (404, {}))
    world.clock.advance(3601)
    world.user(identity("rt-1", "at-1"), logins=2, last_login=world.clock.now())
    await world.pull()
    known = world.connections.get("acme", "google-oauth2")
    assert (known.id, known.client_id) == ("con_again", "another")
    assert world.grant().renewable
    assert told == ["acme"]
    await world.puller.connection("acme", "google-oauth2")
    assert told == ["acme"]


async def test_apps_are_given_the_admin_token_of_the_connection_that_bears_the_name_now(
    engine, vault
):
    """Another was deleted, as a replacement by Terraform is; its administrator's grant is kept."""
    world = World(engine, vault)
    await read(world, WORKSPACE)
    handout = HandoutRepository(engine, AuditLog("test"))
    ask = Ask(tenant="acme", connection="acme-workspace", user_id=None)
    (held,) = handout.find(ask)
    assert held.key.identity_user_id == "con_ws"
    world.auth0.on("/connections/con_ws", (404, {}))
    options = {**WORKSPACE["options"], "admin_access_token": "at-2", "admin_refresh_token": "rt-2"}
    await read(world, {**WORKSPACE, "id": "con_again", "options": options})
    (held,) = handout.find(ask)
    assert held.key.identity_user_id == "con_again"


async def test_an_edit_is_seen_by_the_next_user_pull(world):
    world.user(identity())
    await world.pull()
    fresh = {**GOOGLE, "options": {**GOOGLE["options"], "client_secret": "new"}}
    await read(world, fresh)
    assert world.connections.get("acme", "google-oauth2").client_secret.text() == "new"


async def test_apples_key_is_sealed_and_signs_the_client_secret(world):
    """Auth0 has it as `app_secret`, beside `team_id` and `kid`; in the open only those two lie."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
    options = {"client_id": "com.acme.app", "team_id": "TEAM", "kid": "KID", "app_secret": pem}
    await read(world, {"id": "con_a", "name": "apple", "strategy": "apple", "options": options})
    config = world.connections.get("acme", "apple")
    assert config.client_secret.text() == pem
    assert dict(config.options) == {"team_id": "TEAM", "kid": "KID"}
    provider = load_catalogue({}, allow_loopback=False).resolve(config, has_refresh_token=True)
    assert provider.not_renewable is None
    request = provider.request(config, subject=Secret("rt"), scope=None, now=datetime.now(UTC))
    sent = dict(parse_qsl(request.body.decode()))
    audience = "https://appleid.apple.com"
    claims = jwt.decode(sent["client_secret"], key.public_key(), ["ES256"], audience=audience)
    assert (claims["iss"], claims["sub"]) == ("TEAM", "com.acme.app")


def synced(world: World, *, failed: bool, minutes: float) -> None:
    at = T0 + timedelta(minutes=minutes)
    world.findings.synced("acme", WORKSPACE["name"], SYNC_FAILED, failed=failed, at=at, now=at)


def problems(world: World) -> list[str]:
    return list(world.findings.all("acme").get(WORKSPACE["name"], ()))


async def test_a_failed_directory_sync_is_a_problem_until_one_goes_well(world):
    await read(world, WORKSPACE)
    synced(world, failed=True, minutes=30)
    assert problems(world) == [SYNC_FAILED]
    assert await read(world, WORKSPACE) == [SYNC_FAILED]  # reading the connection shows nothing
    synced(world, failed=False, minutes=60)
    assert problems(world) == []
    assert world.tokens("con_ws") == ("admin-rt", "admin-at")


async def test_syncs_told_in_the_wrong_order_end_as_the_last_of_them_did(world):
    await read(world, WORKSPACE)
    synced(world, failed=False, minutes=60)
    synced(world, failed=True, minutes=30)
    assert problems(world) == []
    synced(world, failed=True, minutes=120)
    synced(world, failed=False, minutes=90)
    assert problems(world) == [SYNC_FAILED]


async def test_a_new_consent_ends_what_it_mends_and_older_failures_do_not_come_back(world):
    await read(world, WORKSPACE)
    synced(world, failed=True, minutes=1)
    wiped = without(WORKSPACE, "admin_access_token", "admin_refresh_token")
    assert await read(world, wiped) == ["consent_lost", SYNC_FAILED]
    world.clock.advance(600)
    anew = {"admin_access_token": "at-2", "admin_refresh_token": "rt-2"}
    consented = {**WORKSPACE, "options": {**WORKSPACE["options"], **anew}}
    assert await read(world, consented) == []
    synced(world, failed=True, minutes=5)  # told late, of before the consent
    assert problems(world) == []
    assert world.tokens("con_ws") == ("rt-2", "at-2")


async def test_auth0s_own_renewal_of_an_admin_token_is_no_consent(world):
    await read(world, WORKSPACE)
    synced(world, failed=True, minutes=1)
    renewed = {**WORKSPACE["options"], "admin_access_token": "auth0s"}
    assert await read(world, {**WORKSPACE, "options": renewed}) == [SYNC_FAILED]


async def test_each_failing_spell_is_told_once(world, sqlite_engine):
    told = []
    findings = FindingRepository(sqlite_engine, lambda _c, notices, _now: told.extend(notices))
    await read(world, WORKSPACE)
    name = WORKSPACE["name"]
    for minutes, failed in ((1, True), (31, True), (61, False), (91, True)):
        at = T0 + timedelta(minutes=minutes)
        findings.synced("acme", name, SYNC_FAILED, failed=failed, at=at, now=at)
    assert [(one.kind, one.reason) for one in told] == [
        ("connection_problem", f"{name}: {SYNC_FAILED}")
    ] * 2
    assert len({one.episode for one in told}) == 2


async def test_whose_an_account_is_the_grants_tell(world, sqlite_engine):
    world.user(identity())
    await world.pull()
    assert world.findings.owner("acme", "google-oauth2", "1") == ROSA
    assert world.findings.owner("acme", "google-oauth2", "nobody") is None
    assert world.findings.owner("acme", "other", "1") is None
    assert world.findings.owner("beta", "google-oauth2", "1") is None
    this = update(GrantRow).values(identity_user_id="google-oauth2|1")  # as of `okta|acme|00u1`
    with writing(sqlite_engine) as connection:
        connection.execute(this)
    assert world.findings.owner("acme", "google-oauth2", "1") == ROSA
    with writing(sqlite_engine) as connection:
        connection.execute(update(GrantRow).values(state="tombstoned"))
    assert world.findings.owner("acme", "google-oauth2", "1") is None
