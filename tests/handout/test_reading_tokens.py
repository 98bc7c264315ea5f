"""What an app gets when it asks for an access token."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import select

from tests.clock import T0
from tests.handout.conftest import ask, in_place, key
from worker.api.answers import token_answer
from worker.domain.errors import NotFoundError, TamperError, TransientError
from worker.domain.held import Ask
from worker.domain.refusals import (
    AmbiguousError,
    AwayError,
    ForbiddenVerbError,
    GoneError,
    NeedsLoginError,
)
from worker.handout.grouping import Grouped
from worker.monitoring.metrics import HANDOUTS
from worker.store.engine import reading
from worker.store.tables import ConnectionRow


async def test_a_fresh_token_is_handed_out(handout, grants, clock):
    grants.add()
    handed = await handout.token(key(), ask())
    assert handed.access_token.text() == "at-0"
    assert handed.use_until <= handed.grant.expires_at
    assert clock.now() < handed.use_until


async def test_the_audit_is_written_before_the_answer(handout, grants, audit):
    grant = grants.add()
    await handout.token(key(name="billing"), ask())
    assert audit() == [("key:billing", "token_read", grant, {"generation": 0})]


async def test_without_an_audit_there_is_no_answer(handout, grants, repository, monkeypatch):
    def full(_records):
        raise TransientError("store: disk full", code="store_away")

    grants.add()
    monkeypatch.setattr(repository, "record", full)
    with pytest.raises(TransientError):
        await handout.token(key(), ask())


def tenants_counted():
    return {sample.labels["tenant"] for metric in HANDOUTS.collect() for sample in metric.samples}


@pytest.mark.parametrize("store", ["there", "away"])
async def test_an_invented_tenant_makes_no_series(handout, grants, repository, monkeypatch, store):
    """Each is kept for good, here and in Prometheus, and a key for `*` may ask for any."""

    def away(_asks):
        raise TransientError("store: away", code="store_away")

    if store == "away":
        monkeypatch.setattr(handout, "_find", Grouped(away, in_place))
    with pytest.raises((NotFoundError, TransientError)):
        await handout.token(key(), ask(tenant=f"invented-{store}"))
    assert f"invented-{store}" not in tenants_counted()


async def test_the_refusals_of_a_grant_are_counted_for_its_tenant(handout, grants):
    grants.add(tenant="counted", state="erased")
    with pytest.raises(GoneError):
        await handout.token(key(), ask(tenant="counted"))
    assert "counted" in tenants_counted()


async def test_audits_of_concurrent_reads_share_a_commit(
    handout, grants, audit, repository, monkeypatch
):
    grants.add()
    groups = []
    write = repository.record
    monkeypatch.setattr(
        repository, "record", lambda records: (groups.append(len(records)), write(records))
    )
    await asyncio.gather(*(handout.token(key(), ask()) for _ in range(20)))
    assert sum(groups) == len(audit()) == 20
    assert len(groups) < 5


async def test_a_token_with_too_little_left_is_renewed_first(handout, grants, clock, renewer):
    """I10: asked for ten minutes, five are left, so the answer is the successor."""
    grant = grants.add()
    clock.advance(55 * 60)
    renewer.on_hint = lambda: grants.renew(grant, "at-1")
    handed = await handout.token(key(), ask(min_ttl=600))
    assert handed.access_token.text() == "at-1"
    assert renewer.hints == ["google-oauth2"]
    assert handed.grant.expires_at - handed.at >= timedelta(minutes=10)


async def test_all_who_wait_for_one_grant_cause_one_renewal(
    handout, grants, clock, renewer, repository, monkeypatch
):
    grant, forced = grants.add(), []
    bring_forward = repository.bring_forward
    monkeypatch.setattr(
        repository,
        "bring_forward",
        lambda *told, **more: forced.append(told) or bring_forward(*told, **more),
    )
    clock.advance(59.5 * 60)
    renewer.on_hint = lambda: grants.renew(grant, "at-1")
    answers = await asyncio.gather(*(handout.token(key(), ask()) for _ in range(50)))
    assert {handed.access_token.text() for handed in answers} == {"at-1"}
    assert (len(renewer.hints), len(forced)) == (1, 1)


async def test_a_refused_token_is_not_handed_out_again(handout, grants, renewer, clock):
    grant = grants.add()
    clock.advance(60)
    renewer.on_hint = lambda: grants.renew(grant, "at-1")
    handed = await handout.token(key(), ask(stale=0))
    assert handed.access_token.text() == "at-1"


async def test_a_refusal_of_an_older_token_forces_nothing(handout, grants, renewer):
    grant = grants.add()
    grants.renew(grant, "at-1")
    assert (await handout.token(key(), ask(stale=0))).access_token.text() == "at-1"
    assert renewer.hints == []


async def test_a_refusal_of_a_generation_ahead_of_ours_is_one_of_ours(handout, grants, renewer):
    """A failover may leave the store behind what it had handed out; it must not wait for that."""
    grant = grants.add()
    renewer.on_hint = lambda: grants.renew(grant, "at-1")
    assert (await handout.token(key(), ask(stale=99))).access_token.text() == "at-1"


async def test_a_flood_of_refusals_renews_five_times_an_hour(handout, grants, renewer, clock):
    """I12, whatever an app claims: the sixth has to wait, and is told how long."""
    grant = grants.add()
    renewer.on_hint = lambda: grants.renew(grant, "at-n")
    waits = []
    for _ in range(40):
        clock.advance(20)
        try:
            await handout.token(key(), ask(stale=grants.row(grant).generation))
        except AwayError as away:
            waits.append(away.retry_after)
    assert (len(renewer.hints), len(waits)) == (5, 35)
    assert all(timedelta(minutes=40) < wait <= timedelta(hours=1) for wait in waits)


async def test_what_was_renewed_a_moment_ago_is_not_renewed_again(handout, grants, renewer, clock):
    grant = grants.add()
    grants.renew(grant, "at-1")
    clock.advance(3)
    with pytest.raises(AwayError) as away:
        await handout.token(key(), ask(stale=1))
    assert away.value.retry_after == timedelta(seconds=7)
    assert renewer.hints == []


async def test_a_token_over_a_moment_before_its_renewal_is_due_is_waited_for(
    handout, grants, renewer, clock
):
    """Of four seconds, the last one is too short to be handed out; the renewal is due in it."""
    now = clock.now()
    due_at = now + timedelta(seconds=3.2)
    grant = grants.add(life=timedelta(seconds=4), due_at=due_at, renewed_at=now)
    clock.advance(3.1)
    renewer.on_hint = lambda: grants.renew(grant, "at-1")
    assert (await handout.token(key(), ask())).access_token.text() == "at-1"


async def test_a_wish_no_token_can_meet_forces_nothing(handout, grants, renewer):
    """A day is asked of tokens that live for an hour: they get the freshest there is."""
    grants.add()
    handed = await handout.token(key(), ask(min_ttl=86_400))
    assert handed.access_token.text() == "at-0"
    assert renewer.hints == []


async def test_tokens_of_a_few_seconds_are_not_renewed_at_every_read(handout, grants, renewer):
    grants.add(life=timedelta(seconds=8))
    assert (await handout.token(key(), ask())).access_token.text() == "at-0"
    assert renewer.hints == []


async def test_a_token_that_never_ends_is_served_and_asked_for_again(handout, grants, clock):
    """`use_until` ends all the same, or a deletion would never reach the caches."""
    grants.add(life=None)
    handed = await handout.token(key(), ask())
    assert handed.grant.expires_at is None
    assert handed.use_until == clock.now() + timedelta(minutes=15)


@pytest.mark.parametrize(("provider", "minutes"), [("gitlab", 4), ("atlassian", 14), ("box", 15)])
async def test_where_a_renewal_kills_the_old_token_it_is_used_until_then(
    handout, grants, clock, monkeypatch, provider, minutes
):
    """Atlassian's lives ten minutes longer, whatever its own exp says."""
    after = {"gitlab": timedelta(0), "atlassian": timedelta(minutes=10)}
    monkeypatch.setattr(handout, "_outlives_renewal", after)
    grants.add(provider=provider, due_at=clock.now() + timedelta(minutes=4))
    handed = await handout.token(key(), ask())
    assert handed.use_until == clock.now() + timedelta(minutes=minutes)


async def test_while_the_provider_is_away_a_living_token_is_served(handout, grants, clock, renewer):
    grants.add()
    clock.advance(3600 - 30)
    assert (await handout.token(key(), ask(min_ttl=60))).access_token.text() == "at-0"


async def test_nothing_valid_while_the_provider_is_away_means_come_again(handout, grants, clock):
    grants.add(
        failures=3, last_error="http_503", due_at=clock.now() + timedelta(hours=1, seconds=40)
    )
    clock.advance(3600)
    with pytest.raises(AwayError) as away:
        await handout.token(key(), ask())
    assert (away.value.code, away.value.reason) == ("provider_away", "http_503")
    assert away.value.retry_after == timedelta(seconds=40)
    assert away.value.who is None


async def test_what_an_administrator_has_to_undo_is_said_to_be_his(handout, grants, clock):
    day = timedelta(days=1)
    grants.add(failures=1, last_error="x", reason="AADSTS53003", due_at=clock.now() + day)
    clock.advance(3600)
    with pytest.raises(AwayError) as away:
        await handout.token(key(), ask())
    told = away.value
    assert (told.code, told.reason, told.who) == ("needs_admin", "AADSTS53003", "operator")
    assert told.retry_after < timedelta(hours=1)


async def test_a_renewal_that_does_not_come_is_not_waited_for_without_end(handout, grants, clock):
    grants.add()
    clock.advance(3600)
    began = clock.now()
    with pytest.raises(AwayError):
        await handout.token(key(), ask())
    assert timedelta(seconds=10) <= clock.now() - began < timedelta(seconds=11)


async def test_a_renewal_that_fails_is_not_waited_for(handout, grants, clock, renewer):
    grant = grants.add()
    clock.advance(3600)
    began = clock.now()
    renewer.on_hint = lambda: grants.set(
        grant, failures=1, last_error="timeout", due_at=clock.now() + timedelta(seconds=20)
    )
    with pytest.raises(AwayError):
        await handout.token(key(), ask())
    assert clock.now() - began < timedelta(seconds=1)


async def test_after_the_login_is_refused_the_token_is_served_until_it_ends(handout, grants, clock):
    grants.add(state="needs_reauth", reason="invalid_grant", due_at=None)
    clock.advance(3600 - 20)
    assert (await handout.token(key(), ask())).access_token.text() == "at-0"
    clock.advance(20)
    with pytest.raises(NeedsLoginError) as needs:
        await handout.token(key(), ask())
    assert (needs.value.reason, needs.value.who) == ("invalid_grant", "user")


async def test_what_an_operator_has_to_mend_says_so(handout, grants, clock):
    grants.add(renewable=False, reason="no_refresh_token")
    clock.advance(3600)
    with pytest.raises(NeedsLoginError) as needs:
        await handout.token(key(), ask())
    assert (needs.value.reason, needs.value.who) == ("no_refresh_token", "operator")


async def test_a_stopped_connection_is_the_operators(handout, grants, clock):
    grants.add()
    grants.add_connection(stopped="invalid_client")
    clock.advance(3600)
    with pytest.raises(AwayError) as away:
        await handout.token(key(), ask())
    assert (away.value.code, away.value.who) == ("connection_stopped", "operator")


async def test_a_suspect_grant_is_not_condemned_yet(handout, grants, clock):
    grants.add(state="suspect", suspect_since=clock.now())
    clock.advance(3600)
    with pytest.raises(AwayError) as away:
        await handout.token(key(), ask())
    assert away.value.code == "provider_refused"


@pytest.mark.parametrize("state", ["tombstoned", "revoking", "erased"])
async def test_what_is_revoked_is_not_served(handout, grants, state):
    grants.add(state=state)
    with pytest.raises(GoneError):
        await handout.token(key(), ask())


async def test_a_grant_that_shares_a_refresh_token_serves_its_holders_tokens(
    handout, grants, audit
):
    holder = grants.add(connection="google-2", access_token="held")
    alias = grants.add(alias_of=holder, access_token=None, refresh_token=None)
    handed = await handout.token(key(), ask())
    assert handed.access_token.text() == "held"
    assert (handed.grant.id, handed.grant.key.connection) == (alias, "google")
    assert audit()[0].detail == {"generation": 0, "alias_of": str(holder)}


@pytest.mark.parametrize("state", ["tombstoned", "revoking"])
async def test_while_its_holder_ends_a_grant_that_shared_is_served_its_own(handout, grants, state):
    """And not refused for good: it is about to inherit the refresh token."""
    holder = grants.add(connection="google-2", access_token="the holder's", state=state)
    grants.add(alias_of=holder, access_token="its own", refresh_token=None)
    assert (await handout.token(key(), ask())).access_token.text() == "its own"


async def test_a_holder_that_came_to_share_anothers_token_is_passed_on_the_way(handout, grants):
    """C18 twice: the second consent's token turned out to be a third one's."""
    holder = grants.add(connection="google-3", access_token="held")
    between = grants.add(connection="google-2", alias_of=holder, access_token="no longer renewed")
    grants.add(alias_of=between, access_token=None, refresh_token=None)
    assert (await handout.token(key(), ask())).access_token.text() == "held"


async def test_grants_that_follow_each_other_serve_nothing(handout, grants):
    one = grants.add(connection="google-2", access_token="stale")
    grants.set(one, alias_of=grants.add(alias_of=one, access_token="stale"))
    with pytest.raises(GoneError):
        await handout.token(key(), ask())


async def test_of_two_accounts_on_one_connection_one_has_to_be_named(handout, grants):
    grants.add(identity_user_id="work", access_token="of-work")
    grants.add(identity_user_id="home", access_token="of-home")
    with pytest.raises(AmbiguousError) as ambiguous:
        await handout.token(key(), ask())
    assert ambiguous.value.identities == ("home", "work")
    assert (await handout.token(key(), ask(identity="work"))).access_token.text() == "of-work"


async def test_a_key_that_may_not_renew_is_told_so(handout, grants):
    grants.add()
    with pytest.raises(ForbiddenVerbError):
        await handout.token(key("read:*"), ask(stale=0))


@pytest.mark.parametrize(
    "scope",
    ["read:other", "read:acme/github", "read:acme/google/auth0%7C*", "status:acme", "admin:acme"],
)
async def test_a_grant_outside_the_scope_reads_like_a_missing_one(handout, grants, scope, audit):
    with pytest.raises(NotFoundError) as missing:
        await handout.token(key(scope), ask())
    grants.add()
    with pytest.raises(NotFoundError) as hidden:
        await handout.token(key(scope), ask())
    assert str(hidden.value) == str(missing.value)
    assert audit() == []


async def test_an_admin_token_needs_the_verb_admin(handout, grants):
    grants.add(part="admin", user_id=None, identity_user_id="con_1", access_token="directory")
    with pytest.raises(NotFoundError):
        await handout.token(key("read:*"), ask(user_id=None))
    handed = await handout.token(key("admin:acme/google"), ask(user_id=None))
    assert handed.access_token.text() == "directory"


async def test_an_admin_token_is_never_a_users(handout, grants):
    grants.add(part="admin")
    with pytest.raises(NotFoundError):
        await handout.token(key(), ask())


async def test_a_ciphertext_put_into_another_row_is_not_served(handout, grants):
    mine = grants.add()
    theirs = grants.add(identity_user_id="105", user_id="google-oauth2|105", access_token="secret")
    stolen = grants.row(theirs)
    grants.set(mine, access_token=stolen.access_token, access_key=stolen.access_key)
    with pytest.raises(TamperError):
        await handout.token(key(), ask())


async def test_a_user_whom_auth0_no_longer_knows_reads_as_not_there(handout, grants, audit):
    """He may be linked to another, so the grant is kept; but nobody gets it under his name."""
    grants.add(withheld="user_missing", withheld_at=T0)
    with pytest.raises(NotFoundError):
        await handout.token(key(), ask())
    assert audit() == []


async def test_a_blocked_users_token_stays_in_and_the_app_hears_why(handout, grants, renewer):
    grants.add(withheld="user_blocked", withheld_at=T0)
    with pytest.raises(NeedsLoginError) as refused:
        await handout.token(key(), ask())
    assert (refused.value.reason, refused.value.who) == ("user_blocked", "operator")
    assert renewer.hints == []


@pytest.mark.parametrize("told", [False, True])
async def test_a_refused_token_teaches_its_age_where_no_end_is_told(
    engine, grants, handout, renewer, clock, told
):
    """What the answers tell is believed; only where they are silent do refusals speak."""
    grants.add_connection()
    long_ago = clock.now() - timedelta(hours=2)
    silent = {} if told else {"expiry": "untold", "expires_at": None}
    for n in range(3):
        user = f"google-oauth2|{n}"
        grant = grants.add(
            user_id=user,
            identity_user_id=str(n),
            issued_at=long_ago,
            renewed_at=long_ago,
            due_at=clock.now() + timedelta(hours=1),
            **silent,
        )
        renewer.on_hint = lambda grant=grant: grants.renew(grant, "at-1")
        await handout.token(key(), Ask(tenant="acme", connection="google", user_id=user, stale=0))
    with reading(engine) as db:
        learned = db.execute(select(ConnectionRow.learned)).scalar_one()
    ages = [round(age) for age in learned.get("refused", {}).values()]
    assert ages == ([] if told else [7200, 7200, 7200])


async def test_where_the_api_is_comes_along_if_the_provider_has_told(handout, grants):
    grants.add(api_base="https://acme.my.salesforce.com")
    answer = token_answer(await handout.token(key(), ask()))
    assert answer["api_base"] == "https://acme.my.salesforce.com"


async def test_where_it_has_not_nothing_is_said(handout, grants):
    grants.add()
    assert "api_base" not in token_answer(await handout.token(key(), ask()))


@pytest.mark.parametrize(
    ("befallen", "refusal"),
    [
        ({"withheld": "user_blocked", "withheld_at": T0}, NeedsLoginError),
        ({"withheld": "user_missing", "withheld_at": T0}, NotFoundError),
        ({"user_id": "auth0|another"}, NotFoundError),
        ({"state": "tombstoned"}, GoneError),
    ],
    ids=["blocked", "deleted", "moved to another user", "given up"],
)
@pytest.mark.parametrize("shared", [False, True], ids=["its own", "another grant's"])
async def test_what_befalls_a_grant_while_its_renewal_is_waited_for_counts(
    handout, grants, clock, renewer, audit, befallen, refusal, shared
):
    """I14: ten seconds may lie between the look and the answer."""
    holder = grants.add(connection="google-2") if shared else grants.add()
    grant = grants.add(alias_of=holder, refresh_token=None) if shared else holder

    def meanwhile():
        grants.renew(holder, "at-1")
        grants.set(grant, **befallen)

    renewer.on_hint = meanwhile
    with pytest.raises(refusal):
        await handout.token(key(), ask(stale=0))
    assert "token_read" not in {entry.verb for entry in audit()}
