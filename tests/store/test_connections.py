"""Connections: the tenant's word, the operator's word, and the secrets in between."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text

from tests.clock import T0
from tests.planted import plant, row_of
from worker.domain.errors import TamperError
from worker.domain.exchange import ConnectionConfig
from worker.domain.grant import GrantId
from worker.domain.secret import Secret
from worker.store.connections import CLIENT_LOST, ConnectionRepository, without_secrets
from worker.store.engine import reading, writing
from worker.store.findings import FindingRepository
from worker.vault import AesVault

GOOGLE = ConnectionConfig(
    tenant="acme",
    name="google-oauth2",
    id="con_1",
    strategy="google-oauth2",
    client_id="client-1",
    client_secret=Secret("s3cret-of-google"),
    options={"scope": ["email"], "token_endpoint": "https://oauth2.googleapis.com/token"},
    headers={"X-Api-Key": Secret("header-s3cret")},
    overrides={},
    fetched_at=T0,
    approved_host=None,
    stopped=None,
)


@pytest.fixture
def connections(engine: Engine, vault: AesVault) -> ConnectionRepository:
    repository = ConnectionRepository(engine, vault)
    repository.put(GOOGLE, options_seen=True)
    return repository


def test_what_was_put_is_got_by_name_and_by_id(connections: ConnectionRepository) -> None:
    assert connections.get("acme", "google-oauth2") == GOOGLE
    assert connections.get_by_id("acme", "con_1") == GOOGLE
    assert connections.all("acme") == [GOOGLE]
    assert connections.get("other", "google-oauth2") is None


def test_no_secret_lies_in_the_open(connections: ConnectionRepository, engine: Engine) -> None:
    with reading(engine) as connection:
        row = connection.execute(text("SELECT * FROM connections")).one()
    assert "s3cret" not in repr(tuple(row))


WIPED = replace(GOOGLE, client_id=None, client_secret=None, options={"scope": ["x"]}, headers={})


def test_a_client_that_is_told_no_more_is_kept_with_what_it_needs(
    connections: ConnectionRepository,
) -> None:
    """Its grants are that client's, whoever has wiped the options at Auth0."""
    assert connections.put(WIPED, options_seen=True)
    kept = connections.get("acme", "google-oauth2")
    assert kept == replace(GOOGLE, options={**GOOGLE.options, "scope": ["x"]})
    assert connections.put(WIPED, options_seen=True)  # still, at the next read
    assert not connections.put(GOOGLE, options_seen=True)


def test_a_hidden_secret_is_kept_as_long_as_the_client_is_the_same(
    connections: ConnectionRepository,
) -> None:
    assert not connections.put(replace(GOOGLE, client_secret=None), options_seen=True)
    assert connections.get("acme", "google-oauth2") == GOOGLE
    another = replace(GOOGLE, client_id="client-2", client_secret=None)
    assert not connections.put(another, options_seen=True)
    assert connections.get("acme", "google-oauth2") == another


@pytest.mark.parametrize("made_anew", ["under another id", "after its deletion"])
def test_a_connection_of_the_same_name_inherits_no_client(
    connections: ConnectionRepository, made_anew: str
) -> None:
    if made_anew == "after its deletion":
        connections.mark_deleted("acme", "google-oauth2", T0)
    fresh = replace(WIPED, id="con_1" if made_anew == "after its deletion" else "con_2")
    assert not connections.put(fresh, options_seen=True)
    assert connections.get("acme", "google-oauth2") == fresh


def test_the_operators_own_client_is_not_lost_at_auth0(engine: Engine, vault: AesVault) -> None:
    ours = {("acme", "google-oauth2"): {"client_id": "ours"}}
    repository = ConnectionRepository(engine, vault, overrides=ours)
    repository.put(GOOGLE, options_seen=True)
    repository.put(WIPED, options_seen=True)
    FindingRepository(engine).put(
        "acme", "google-oauth2", frozenset({CLIENT_LOST}), lasting=frozenset(), now=T0
    )
    found = repository.get("acme", "google-oauth2")
    assert found is not None
    assert (found.client_id, found.client_lost) == ("ours", False)


def test_an_option_named_like_a_secret_is_not_stored() -> None:
    told = {
        "client_secret": "x",
        "admin_refresh_token": "x",
        "admin_access_token_expiresin": "x",
        "nested": {"app_secret": "x", "tokenURL": "https://a/b"},
        "list": [{"password": "x", "keep": 1}],
        "token_endpoint": "https://a/t",
    }
    kept = {"nested": {"tokenURL": "https://a/b"}, "list": [{"keep": 1}]}
    assert without_secrets(told) == {**kept, "token_endpoint": "https://a/t"}


def test_a_reading_without_options_keeps_those_of_an_earlier_one(
    connections: ConnectionRepository,
) -> None:
    """A lost scope must not cost the client secret that we already have."""
    blind = replace(GOOGLE, client_id=None, client_secret=None, options={}, headers={})
    connections.put(blind, options_seen=False)
    assert connections.get("acme", "google-oauth2") == GOOGLE


def test_a_reading_with_options_replaces_them(connections: ConnectionRepository) -> None:
    changed = replace(GOOGLE, client_secret=Secret("new"), options={"scope": []}, headers={})
    connections.put(changed, options_seen=True)
    assert connections.get("acme", "google-oauth2") == changed


def test_a_stop_outlives_a_reading_until_it_is_reopened(connections: ConnectionRepository) -> None:
    connections.stop("acme", "google-oauth2", asked=GOOGLE, reason="invalid_client", now=T0)
    connections.stop("acme", "google-oauth2", asked=GOOGLE, reason="a later one", now=T0)
    connections.put(GOOGLE, options_seen=True)
    stopped = connections.get("acme", "google-oauth2")
    assert stopped
    assert stopped.stopped == "invalid_client"
    connections.reopen("acme", "google-oauth2")
    assert connections.get("acme", "google-oauth2") == GOOGLE


CHANGES = [
    {"client_secret": Secret("a-new-one")},
    {"client_id": "client-2"},
    {"options": {"token_endpoint": "https://login.example/token"}},
    {"headers": {}},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_an_answer_to_what_was_asked_before_a_change_stops_nothing(
    connections: ConnectionRepository, change: dict[str, Any]
) -> None:
    connections.put(replace(GOOGLE, **change), options_seen=True)
    told: dict[str, Any] = {"reason": "invalid_client", "now": T0}
    assert not connections.stop("acme", "google-oauth2", asked=GOOGLE, **told)
    assert (found := connections.get("acme", "google-oauth2"))
    assert found.stopped is None
    assert connections.stop("acme", "google-oauth2", asked=found, **told)
    assert not connections.stop("acme", "google-oauth2", asked=found, **told), "it was open no more"


def test_nor_does_a_host_that_was_another_before_it_was_approved(
    connections: ConnectionRepository,
) -> None:
    connections.approve_host("acme", "google-oauth2", "today.example")
    before = replace(GOOGLE, approved_host="yesterday.example")
    told: dict[str, Any] = {"reason": "its token host changed", "now": T0}
    assert not connections.stop("acme", "google-oauth2", asked=before, **told)
    assert connections.stop("acme", "google-oauth2", asked=GOOGLE, **told), "read before any was"


def test_a_stop_and_a_new_secret_at_once_leave_the_connection_open(
    connections: ConnectionRepository, vault: AesVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever comes first: a stop that the reading had not seen yet would stay for ever."""
    seal, stops = vault.seal_config, list[Future[bool]]()

    def meanwhile(*args: Any, **kwargs: Any) -> bytes:
        """The reading has looked at the row, and is about to write it."""
        told: dict[str, Any] = {"asked": GOOGLE, "reason": "invalid_client", "now": T0}
        stops.append(pool.submit(connections.stop, "acme", "google-oauth2", **told))
        wait(stops, timeout=0.3)
        return seal(*args, **kwargs)

    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(vault, "seal_config", meanwhile)
        connections.put(replace(GOOGLE, client_secret=Secret("right")), options_seen=True)
        assert [stop.result() for stop in stops] == [False]
    assert (found := connections.get("acme", "google-oauth2"))
    assert found.stopped is None


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_a_reading_that_brings_something_new_reopens_a_stopped_connection(
    connections: ConnectionRepository, change: dict[str, Any]
) -> None:
    connections.stop("acme", "google-oauth2", asked=GOOGLE, reason="invalid_client", now=T0)
    connections.put(replace(GOOGLE, fetched_at=T0 + timedelta(hours=1)), options_seen=True)
    assert (found := connections.get("acme", "google-oauth2"))
    assert found.stopped == "invalid_client", "the same again mends nothing"
    connections.put(replace(GOOGLE, **change), options_seen=False)
    assert (found := connections.get("acme", "google-oauth2"))
    assert found.stopped == "invalid_client", "options that could not be seen say nothing"
    connections.put(replace(GOOGLE, **change), options_seen=True)
    assert (found := connections.get("acme", "google-oauth2"))
    assert found.stopped is None


def test_grants_that_waited_for_a_connection_fall_due_when_it_is_mended(
    connections: ConnectionRepository, engine: Engine, vault: AesVault
) -> None:
    now = datetime.now(UTC)

    def planted(minutes: float, code: str | None, **columns: Any) -> GrantId:
        due_at = now + timedelta(minutes=minutes)
        return plant(engine, vault, rt=None, now=now, due_at=due_at, last_error=code, **columns)

    waiting = [planted(n + 0.5, "connection_stopped") for n in range(12)]
    blamed = planted(9, "invalid_client")
    left = {
        "well": planted(9, None),
        "backs off": planted(9, "http_503", failures=3),
        "another's": planted(9, "connection_stopped", connection="other"),
        "dead": planted(9, "invalid_grant", state="needs_reauth"),
        "not before": planted(9, "connection_stopped", not_before=now + timedelta(minutes=8)),
    }
    before = {name: row_of(engine, grant).due_at for name, grant in left.items()}
    connections.stop("acme", "google-oauth2", asked=GOOGLE, reason="invalid_client", now=now)
    connections.reopen("acme", "google-oauth2")
    dues = [row_of(engine, grant).due_at for grant in [*waiting, blamed]]
    soonest, latest = now + timedelta(seconds=5), now + timedelta(seconds=25)
    assert all(soonest < due < latest for due in dues), "not before every process knows of it"
    assert dues[:-1] == sorted(dues[:-1]), "in the order they stood in"
    assert len(set(dues)) > 10, "spread"
    assert before == {name: row_of(engine, grant).due_at for name, grant in left.items()}


def test_an_approved_host_outlives_a_reading(connections: ConnectionRepository) -> None:
    connections.approve_host("acme", "google-oauth2", "oauth2.googleapis.com")
    connections.put(GOOGLE, options_seen=True)
    approved = connections.get("acme", "google-oauth2")
    assert approved
    assert approved.approved_host == "oauth2.googleapis.com"


def test_a_host_is_pinned_once_and_all_hear_which(connections: ConnectionRepository) -> None:
    """I13: by one of those who come first, and moved by none who comes later."""

    def pin(number: int) -> str | None:
        return connections.approve_host("acme", "google-oauth2", f"host-{number}.example")

    with ThreadPoolExecutor(4) as pool:
        (pinned,) = set(pool.map(pin, range(4)))
    assert pinned
    assert (found := connections.get("acme", "google-oauth2"))
    assert pin(9) == found.approved_host == pinned
    assert connections.approve_host("acme", "unheard-of", "host.example") is None


def test_a_brake_holds_until_its_end_or_its_release(connections: ConnectionRepository) -> None:
    until = T0 + timedelta(minutes=10)
    connections.brake("acme", "google-oauth2", until=until)
    assert connections.braked(T0) == {("acme", "google-oauth2"): until}
    assert connections.braked(until) == {}
    connections.release("acme", "google-oauth2")
    assert connections.braked(T0) == {}


def test_a_deleted_connection_is_gone_until_it_is_put_again(
    connections: ConnectionRepository,
) -> None:
    connections.mark_deleted("acme", "google-oauth2", T0)
    assert connections.get("acme", "google-oauth2") is None
    assert connections.all("acme") == []
    connections.put(GOOGLE, options_seen=True)
    assert connections.get("acme", "google-oauth2") == GOOGLE


def test_the_operators_keys_are_laid_over_the_tenants(engine: Engine, vault: AesVault) -> None:
    ours = {
        "client_secret": Secret("ours"),
        "enabled": False,
        "token_url": "https://proxy.example/token",
    }
    repository = ConnectionRepository(engine, vault, overrides={("acme", "google-oauth2"): ours})
    repository.put(GOOGLE, options_seen=True)
    found = repository.get("acme", "google-oauth2")
    assert found
    assert found.client_secret == Secret("ours")
    assert not found.enabled
    assert found.overrides == {"token_url": "https://proxy.example/token"}


def test_secrets_moved_to_another_connections_row_do_not_open(
    connections: ConnectionRepository, engine: Engine
) -> None:
    connections.put(replace(GOOGLE, name="other", id="con_2"), options_seen=True)
    with writing(engine) as connection:
        connection.execute(
            text(
                "UPDATE connections SET secrets = "
                "(SELECT secrets FROM connections c WHERE c.name = 'google-oauth2')"
            )
        )
    with pytest.raises(TamperError):
        connections.get("acme", "other")


def test_a_switch_named_like_a_token_is_no_secret():
    told = {"ext_refresh_token": False, "ext_access_token": True, "refresh_token": "r"}
    assert without_secrets(told) == {"ext_refresh_token": False, "ext_access_token": True}
