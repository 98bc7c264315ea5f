"""One user read and merged: what is fetched, what is kept, when to look again."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.clock import T0
from tests.sync.world import GOOGLE, MINUTE, ROSA, World, identity, login
from worker.domain.errors import ConfigurationError, NotFoundError, TransientError
from worker.domain.event import Source
from worker.domain.held import Withheld
from worker.store import outbox
from worker.store.audit import AuditLog
from worker.store.withholding import WithholdingRepository


@pytest.fixture
def world(sqlite_engine, vault) -> World:
    return World(sqlite_engine, vault)


async def test_a_login_ends_as_a_grant_that_will_be_renewed(engine, vault):
    world = World(engine, vault)
    world.user(identity())
    await world.pull()
    row = world.grant()
    assert world.tokens() == ("rt-0", "at-0")
    assert (row.provider, row.user_id, row.renewable) == ("google-oauth2", ROSA, True)
    assert row.expires_at == T0 + timedelta(seconds=3599)
    assert T0 < row.due_at < row.expires_at


async def test_connections_are_read_once_and_never_per_user(world):
    for number in range(20):
        user_id = f"google-oauth2|{number}"
        world.user(identity(f"rt-{number}", user_id=str(number)), user_id=user_id)
        await world.pull(user_id)
    assert world.asked("/connections") == 1


async def users_of_a_day(world, count):
    for number in range(count):
        user_id = f"google-oauth2|{number}"
        world.user(identity(f"rt-{number}", user_id=str(number)), user_id=user_id)
        await world.pull(user_id)


async def test_a_connection_that_is_gone_is_not_asked_for_per_user_either(world):
    """Accounts that were linked outlive their connection; a plan allows few reads of those."""
    world.auth0.on("/connections", (200, []))
    await users_of_a_day(world, 5)
    assert world.asked("/connections") == 1
    world.clock.advance(301)
    await users_of_a_day(world, 2)
    assert world.asked("/connections") == 2
    world.connection(GOOGLE)
    await world.puller.connection("acme", "google-oauth2")  # it is back, as an event tells
    await users_of_a_day(world, 1)
    assert world.connections.get("acme", "google-oauth2").client_id == "client"


async def test_an_old_connection_that_auth0_does_not_show_is_not_asked_for_per_user(world):
    await users_of_a_day(world, 1)
    world.clock.advance(3600)
    before = world.asked("/connections")
    world.auth0.on("/connections/con_google", (503, {}))
    await users_of_a_day(world, 5)
    assert world.asked("/connections") == before + 1


async def test_and_again_when_they_are_old(world):
    world.user(identity())
    await world.pull()
    world.clock.advance(3601)
    await world.pull()
    assert world.asked("/connections") == 2


async def test_an_old_connection_is_better_than_none_while_auth0_hides_it(world):
    world.user(identity())
    await world.pull()
    world.clock.advance(3601)
    world.auth0.on("/connections/con_google", (503, {}))
    world.user(identity("rt-1", "at-1"), logins=2)
    await world.pull()
    assert world.tokens() == ("rt-1", "at-1")


async def test_a_secret_that_came_to_light_renews_what_waited_for_it(world):
    """`read:connections_options` was granted later: nobody has to log in again for that."""
    world.connection({**GOOGLE, "options": {"client_id": "client"}})
    world.user(identity())
    await world.pull()
    assert (world.grant().renewable, world.grant().reason) == (False, "not_renewable")
    world.connection(GOOGLE)
    await world.puller.connection("acme", "google-oauth2")
    await world.pull()
    row = world.grant()
    assert (row.renewable, row.reason) == (True, None)
    assert row.due_at is not None


async def test_a_user_without_tokens_costs_no_connection_read(world):
    world.user({"connection": "Username-Password-Authentication", "provider": "auth0",
                "user_id": "9"})  # fmt: skip
    await world.pull()
    assert world.asked("/connections") == 0


async def test_a_burst_for_one_user_is_two_reads_at_most(world):
    world.user(identity())
    await asyncio.gather(*(world.pull() for _ in range(1000)))
    assert world.asked("/users") <= 2


async def test_a_wish_that_comes_while_a_read_is_under_way_gets_one_of_its_own(world):
    """That read may have seen what was before the event."""
    world.user(identity())
    first = asyncio.create_task(world.pull())
    while not world.asked("/users"):
        await asyncio.sleep(0)
    world.user(identity("rt-1", "at-1"), logins=2)
    await asyncio.gather(first, world.pull())
    assert world.tokens() == ("rt-1", "at-1")


async def test_a_failed_read_fails_for_all_who_waited_and_for_nobody_after(world):
    world.auth0.on("/users/google-oauth2%7C1", (503, {}))
    fates = await asyncio.gather(*(world.pull() for _ in range(3)), return_exceptions=True)
    assert all(isinstance(fate, TransientError) for fate in fates)
    world.user(identity())
    await world.pull()


async def test_an_unknown_tenant_is_the_operators_to_mend(world):
    with pytest.raises(ConfigurationError):
        await world.puller.user("other", ROSA)


# ------------------------------------------------------------------ when was it issued?


async def test_expires_in_counts_from_the_last_login_of_an_only_identity(world):
    world.user(identity(), last_login=T0 - 10 * MINUTE)
    await world.pull()
    assert world.grant().expires_at == T0 - 10 * MINUTE + timedelta(seconds=3599)


async def test_of_linked_identities_the_login_event_says_which_it_was(world):
    other = identity("rt-b", "at-b", user_id="2")
    world.user(identity(), other, last_login=T0 - MINUTE)
    await world.pull(login=login(T0 - MINUTE))
    assert world.grant("1").expires_at == T0 - MINUTE + timedelta(seconds=3599)
    assert world.grant("2").due_at == T0  # nobody knows: renewed at once


async def test_of_two_accounts_on_one_connection_a_login_of_either_dates_none(world):
    """An Action names the connection alone: the other account's old token must not count as new."""
    world.user(identity(), identity("rt-b", "at-b", user_id="2"))
    told = replace(login(T0, source=Source.ACTIONS), identity_user_id=None)
    await world.pull(login=told)
    assert [world.grant(account).due_at for account in ("1", "2")] == [T0, T0]


async def test_a_refresh_token_without_an_access_token_is_renewed_at_once(world):
    """`ext_access_token` is off, for instance: until then there is nothing to hand out."""
    world.user(identity("rt-0", None, expires_in=None))
    await world.pull()
    assert world.grant().due_at == T0
    world.clock.advance(60)
    world.user(identity("rt-1", None), logins=2, last_login=world.clock.now())
    await world.pull()
    assert world.tokens() == ("rt-1", None)
    assert world.grant().due_at == world.clock.now()


async def test_a_forged_event_cannot_make_a_dead_token_live(world):
    """Told a login later than Auth0 itself has seen."""
    other = identity("rt-b", "at-b", user_id="2")
    world.user(identity(), other, last_login=T0 - 120 * MINUTE)
    await world.pull(login=login(T0))
    assert world.grant("1").due_at == T0


# ------------------------------------------------------------------ not visible yet


async def test_a_login_whose_tokens_are_not_readable_yet_is_looked_at_again(world):
    world.user(identity())
    await world.pull()
    world.clock.advance(7200)
    at = world.clock.now()
    waits = []
    for _ in range(3):
        with pytest.raises(TransientError) as caught:
            await world.pull(login=login(at))
        assert caught.value.code == "login_not_visible"
        waits.append(caught.value.retry_after.total_seconds())
        world.clock.advance(waits[-1])
    assert waits == [2, 5, 15]
    await world.pull(login=login(at))  # believed: it brought nothing new


async def test_a_login_told_of_years_ahead_is_not_looked_for_without_end(world):
    world.user(identity())
    await world.pull()
    await world.pull(login=login(T0 + timedelta(days=3650)))


async def test_until_they_are(world):
    world.user(identity())
    await world.pull()
    world.clock.advance(7200)
    at = world.clock.now()
    world.user(identity("rt-1", "at-1"), logins=2, last_login=at)
    await world.pull(login=login(at))
    await world.pull(login=login(at))  # told twice, and in already
    assert world.tokens() == ("rt-1", "at-1")


async def test_logins_that_never_bring_tokens_are_read_once(world):
    world.user({"connection": "adfs", "provider": "adfs", "user_id": "1"})
    await world.pull(login=login(connection="adfs"))


async def test_but_an_action_runs_before_there_are_any(world):
    world.user({"connection": "google-oauth2", "provider": "google-oauth2", "user_id": "1"})
    with pytest.raises(TransientError):
        await world.pull(login=login(source=Source.ACTIONS))


async def test_a_changed_refresh_token_without_a_login_is_looked_at_twice(world):
    world.user(identity())
    await world.pull()
    world.user(identity("stranger", "at-1"))
    with pytest.raises(TransientError, match="nobody logged in"):
        await world.pull()
    world.clock.advance(31)
    await world.pull()
    assert world.grant().state == "quarantined"


async def test_a_login_counted_before_its_tokens_are_readable_is_no_strangers(world):
    """Whether Auth0 shows a login's tokens or its count first is not documented."""
    world.user(identity())
    await world.pull()
    world.clock.advance(7200)
    at = world.clock.now()
    world.user(identity(), logins=2, last_login=at)
    with pytest.raises(TransientError):
        await world.pull(login=login(at, source=Source.ACTIONS))
    world.clock.advance(2)
    world.user(identity("rt-1", "at-1"), logins=2, last_login=at)
    await world.pull(login=login(at, source=Source.ACTIONS))
    assert (world.grant().state, world.tokens()) == ("active", ("rt-1", "at-1"))


async def test_logins_of_the_days_when_no_tokens_were_shown_are_no_strangers(world):
    """The scope read:user_idp_tokens was taken from the application, and given back a day later."""
    world.user(identity())
    await world.pull()
    world.clock.advance(86_400)
    at = world.clock.now()
    world.user(identity(None, None, expires_in=None), logins=2, last_login=at)
    for _ in range(2):
        await world.pull()
        world.clock.advance(3600)
    world.user(identity("rt-1", "at-1"), logins=2, last_login=at)
    await world.pull()
    assert (world.grant().state, world.tokens()) == ("active", ("rt-1", "at-1"))


async def test_a_login_that_brought_nothing_explains_no_change_of_later_days(world):
    world.user(identity())
    await world.pull()
    world.clock.advance(7200)
    world.user(identity(), logins=2, last_login=world.clock.now())
    await world.pull()
    world.clock.advance(3600)
    await world.pull()
    world.user(identity("stranger", "at-1"), logins=2, last_login=T0 + 120 * MINUTE)
    with pytest.raises(TransientError, match="nobody logged in"):
        await world.pull()


# ------------------------------------------------------------------ leaving


async def test_a_user_unknown_twice_is_gone_and_unknown_once_is_not(world):
    world.user(identity())
    await world.pull()
    world.no_user()
    for seconds in (0, 5, 20):
        world.clock.advance(seconds)
        with pytest.raises(NotFoundError):
            await world.pull()
        assert bool(world.gone) is (seconds == 20)


async def test_a_user_who_is_back_at_the_second_look_is_not_gone(world):
    world.no_user()
    with pytest.raises(NotFoundError):
        await world.pull()
    world.clock.advance(60)
    world.user(identity())
    await world.pull()
    world.no_user()
    world.clock.advance(60)
    with pytest.raises(NotFoundError):
        await world.pull()
    assert world.gone == []


async def test_an_unlinked_identity_is_followed_to_its_new_user(world):
    world.user(identity(), identity("rt-b", "at-b", user_id="2"))
    await world.pull()
    world.user(identity())
    world.user(identity("rt-c", "at-c", user_id="2"), user_id="google-oauth2|2", logins=9)
    await world.pull()
    assert world.grant("2").user_id == "google-oauth2|2"
    assert world.tokens("2") == ("rt-c", "at-c")


async def test_tokens_that_vanish_are_kept_and_complained_of(world):
    world.user(identity())
    await world.pull()
    world.user(identity(None, None, expires_in=None))
    await world.pull()
    assert world.tokens() == ("rt-0", "at-0")
    assert world.findings.all("acme") == {"google-oauth2": ["tokens_vanished"]}


async def test_a_connection_auth0_does_not_know_still_gives_what_it_gave(world):
    world.auth0.on("/connections", (200, []))
    world.user(identity())
    await world.pull()
    assert world.tokens() == ("rt-0", "at-0")


async def test_secrets_of_a_connection_are_not_in_the_open(world):
    world.connection({**GOOGLE, "options": {**GOOGLE["options"], "app_secret": "canary",
                      "scripts": {"fetchUserProfile": "canary"}, "odd": "canary"}})  # fmt: skip
    world.user(identity())
    await world.pull()
    config = world.connections.get("acme", "google-oauth2")
    assert "canary" not in str(config.options)
    assert config.client_secret.text() == "shh"


async def test_a_blocked_users_grants_are_kept_and_withheld_until_he_is_unblocked(world):
    world.user(identity(), blocked=True)
    await world.pull()
    assert (world.grant().withheld, world.grant().state) == ("user_blocked", "active")
    assert world.grant().due_at is not None  # renewed all the while: nothing is lost
    since = world.grant().withheld_at
    world.clock.advance(60)
    await world.pull()
    assert world.grant().withheld_at == since
    world.user(identity())
    await world.pull()
    assert world.grant().withheld is None


async def test_a_tenant_may_serve_its_blocked_users(sqlite_engine, vault):
    world = World(sqlite_engine, vault, serves_blocked={"acme"})
    world.user(identity(), blocked=True)
    await world.pull()
    assert world.grant().withheld is None


async def test_a_withheld_identity_that_shows_up_under_another_user_is_his_again(world):
    world.user(identity())
    await world.pull()
    store = WithholdingRepository(world.engine, AuditLog("test"), outbox.add)
    store.withhold("acme", ROSA, Withheld.USER_MISSING, actor="test", now=T0)
    world.user(identity(), user_id="auth0|primary", logins=3)
    await world.pull("auth0|primary")
    assert (world.grant().user_id, world.grant().withheld) == ("auth0|primary", None)


async def test_an_answer_without_identities_takes_nobodys_away(world):
    """Cut short on its way, or by a field list that Auth0 reads otherwise: no account has left."""
    world.user(identity(), identity("rt-b", "at-b", user_id="2"))
    await world.pull()
    world.auth0.on("/users/google-oauth2%7C1", (200, {"user_id": ROSA, "logins_count": 2}))
    with pytest.raises(TransientError):
        await world.pull()
    assert world.grant("2").user_id == ROSA
