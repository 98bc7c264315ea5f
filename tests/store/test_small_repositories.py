"""API keys, hosts, hints, dead messages and the outbox, on both databases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import Engine, text

from tests.clock import T0
from worker.domain.access import Scope, Verb, digest_of
from worker.domain.errors import ConfigurationError
from worker.domain.grant import GrantKey
from worker.domain.ports import Notice
from worker.domain.secret import Secret
from worker.store import outbox
from worker.store.api_keys import ApiKeyRepository
from worker.store.dead_messages import KEPT_BYTES, DeadMessageRepository
from worker.store.engine import reading, writing
from worker.store.hints import HintRepository
from worker.store.hosts import HostRepository

MINUTE = timedelta(minutes=1)


class TestApiKeys:
    SCOPE = Scope(tenant="acme", connection="google-*", verbs=frozenset({Verb.READ, Verb.RENEW}))

    def test_a_key_opens_what_its_scope_covers_until_it_is_revoked(self, engine: Engine) -> None:
        keys = ApiKeyRepository(engine)
        key = keys.create("crm", scope=self.SCOPE, now=T0)
        assert key.text().startswith("evg_")
        found = keys.verify(key, T0)
        assert found
        assert found.scopes == (self.SCOPE,)
        assert keys.revoke("crm", T0)
        assert not keys.revoke("crm", T0)
        assert keys.verify(key, T0) is None

    def test_a_key_ends_at_its_time(self, engine: Engine) -> None:
        keys = ApiKeyRepository(engine)
        key = keys.create("crm", scope=self.SCOPE, now=T0, expires_at=T0 + MINUTE)
        assert keys.verify(key, T0)
        assert keys.verify(key, T0 + MINUTE) is None

    def test_a_wrong_key_is_nobodys(self, engine: Engine) -> None:
        keys = ApiKeyRepository(engine)
        key = keys.create("crm", scope=self.SCOPE, now=T0)
        assert keys.verify(Secret(key.text() + "x"), T0) is None
        assert keys.verify(Secret("evg_"), T0) is None

    def test_the_store_holds_no_key_but_its_digest(self, engine: Engine) -> None:
        key = ApiKeyRepository(engine).create("crm", scope=self.SCOPE, now=T0)
        with reading(engine) as connection:
            row = connection.execute(text("SELECT * FROM api_keys")).one()
        assert key.text() not in repr(tuple(row))
        assert digest_of(key) in row

    def test_a_name_is_taken_once(self, engine: Engine) -> None:
        keys = ApiKeyRepository(engine)
        keys.create("crm", scope=self.SCOPE, now=T0)
        with pytest.raises(ConfigurationError, match="already"):
            keys.create("crm", scope=self.SCOPE, now=T0)
        assert [key.name for key in keys.all()] == ["crm"]


class TestHosts:
    def test_a_block_holds_until_its_end(self, engine: Engine) -> None:
        hosts = HostRepository(engine)
        hosts.block("a.example", T0 + MINUTE, "429", now=T0)
        assert hosts.blocked(T0) == {"a.example": T0 + MINUTE}
        assert hosts.blocked(T0 + MINUTE) == {}

    def test_a_block_grows_but_never_shrinks(self, engine: Engine) -> None:
        hosts = HostRepository(engine)
        for minutes in (2, 1, 3):
            hosts.block("a.example", T0 + minutes * MINUTE, "503", now=T0)
        assert hosts.blocked(T0) == {"a.example": T0 + 3 * MINUTE}

    def test_a_success_lifts_it(self, engine: Engine) -> None:
        hosts = HostRepository(engine)
        hosts.block("a.example", T0 + MINUTE, "429", now=T0)
        hosts.clear("a.example")
        assert hosts.blocked(T0) == {}


class TestHints:
    def test_only_one_hint_is_outstanding(self, engine: Engine) -> None:
        hints = HintRepository(engine)
        assert hints.take("renew.google-oauth2", T0, MINUTE)
        assert not hints.take("renew.google-oauth2", T0, MINUTE)
        assert hints.take("renew.waad", T0, MINUTE)

    def test_it_may_be_sent_again_once_it_arrived_or_was_lost(self, engine: Engine) -> None:
        hints = HintRepository(engine)
        hints.take("events", T0, MINUTE)
        hints.clear("events")
        assert hints.take("events", T0, MINUTE)
        assert hints.take("events", T0 + MINUTE, MINUTE)

    def test_of_many_processes_one_takes_it(self, engine: Engine) -> None:
        hints = HintRepository(engine)
        with ThreadPoolExecutor(6) as pool:
            taken = list(pool.map(lambda _: hints.take("events", T0, MINUTE), range(18)))
        assert taken.count(True) == 1


def test_a_dead_message_is_kept_cut_and_dropped(engine: Engine) -> None:
    dead = DeadMessageRepository(engine)
    for body in (b"first", b"x" * (KEPT_BYTES + 1)):
        dead.add("evergrant.events", why="not JSON", body=body, now=T0)
    newest, first = dead.newest()
    assert (len(newest.body), first.body, first.why) == (KEPT_BYTES, b"first", "not JSON")
    assert dead.drop([first.id]) == 1
    assert dead.purge(before=T0 + MINUTE) == 1
    assert dead.newest() == []


class TestOutbox:
    NOTICE = Notice(
        tenant="acme",
        kind="grant_needs_login",
        episode="e1",
        key=GrantKey(tenant="acme", connection="google-oauth2", identity_user_id="1"),
    )

    def test_an_episode_is_told_once(self, engine: Engine) -> None:
        for _ in range(2):
            with writing(engine) as connection:
                outbox.add(connection, [self.NOTICE, self.NOTICE], T0)
        with reading(engine) as connection:
            assert connection.scalar(text("SELECT count(*) FROM outbox")) == 1

    def test_what_is_rolled_back_is_not_told(self, engine: Engine) -> None:
        with writing(engine) as connection:
            outbox.add(connection, [self.NOTICE], T0)
            connection.rollback()
        with reading(engine) as connection:
            assert connection.scalar(text("SELECT count(*) FROM outbox")) == 0


def test_of_dead_messages_only_the_newest_are_kept(engine: Engine) -> None:
    """Whoever can publish could fill the disk otherwise."""
    dead = DeadMessageRepository(engine)
    for number in range(7):
        dead.add("q", why=str(number), body=b"x", now=T0)
    assert dead.purge(before=T0 - MINUTE, most=3) == 4
    assert [message.why for message in dead.newest()] == ["6", "5", "4"]
