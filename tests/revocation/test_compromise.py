"""Tokens leaked: handing out stops at once, then they are revoked or replaced."""

from datetime import timedelta

import pytest

from tests.handout.conftest import Renewer, YieldingClock, in_place
from worker.domain.access import ApiKey, Scope
from worker.domain.burial import Selection
from worker.domain.held import Ask
from worker.domain.ports import AuditRecord
from worker.domain.refusals import AwayError, NeedsLoginError, TooWideError
from worker.handout import Handout
from worker.revocation.compromise import Response
from worker.store.audit import AuditLog
from worker.store.handout import HandoutRepository

KEY = ApiKey(name="app", digest=b"", scopes=(Scope(),))


def add_user(grants, number, **columns):
    told = {"refresh_token": f"rt-{number}"} | columns
    return grants.add(user_id=f"google-oauth2|{number}", identity_user_id=str(number), **told)


async def test_a_whole_connection_is_revoked_and_reported(grants, compromise, revoker, endpoint):
    leaked = [add_user(grants, number) for number in range(3)]
    add_user(grants, 9, connection="github")
    endpoint.outcomes = [200, 200, 400]
    stopped = await compromise.respond(
        Selection(tenant="acme", connection="google"), Response.REVOKE, actor="cli:ada"
    )
    assert sorted(stopped.grants) == sorted(leaked)
    assert (await compromise.report(stopped)).pending == 3
    await revoker.drain()
    report = await compromise.report(stopped)
    assert (report.grants, report.pending) == (3, 0)
    assert {line.outcome: line.grants for line in report.lines} == {"revoked": 2, "refused": 1}
    assert [line.by_hand for line in report.lines] == ["At https://provider.example/apps.", ""]


async def test_only_what_left_since_the_leak_through_that_key(
    grants, compromise, engine, clock, tombstones
):
    repository = HandoutRepository(engine, AuditLog("test"))
    early, late, other, unread = (add_user(grants, number) for number in range(4))

    def read(grant, name):
        repository.record(
            [
                AuditRecord(
                    at=clock.now(),
                    actor=f"key:{name}",
                    verb="token_read",
                    tenant="acme",
                    grant=grant,
                )
            ]
        )

    read(early, "leaky")
    clock.advance(3600)
    read(late, "leaky")
    read(other, "sound")
    selection = Selection(
        tenant="acme", handed_since=clock.now() - timedelta(minutes=1), handed_to="leaky"
    )
    plan = await compromise.plan(selection)
    assert (plan.grants, plan.users) == (1, 1)
    stopped = await compromise.respond(selection, Response.REVOKE, actor="cli:ada")
    assert stopped.grants == [late]
    assert {grants.row(grant).state for grant in (early, other, unread)} == {"active"}


async def test_replacing_keeps_the_consent_and_serves_only_the_successor(
    grants, compromise, engine, vault, clock
):
    grant = add_user(grants, 104)
    await compromise.respond(
        Selection(tenant="acme", connection="google"), Response.REPLACE, actor="cli:ada"
    )
    renewer = Renewer()
    handout = Handout(
        grants=HandoutRepository(engine, AuditLog("test")),
        vault=vault,
        hints=renewer,
        clock=YieldingClock(clock),
        offload=in_place,
    )
    ask = Ask(tenant="acme", connection="google", user_id="google-oauth2|104")
    with pytest.raises(AwayError):
        await handout.token(KEY, ask)
    renewer.on_hint = lambda: grants.renew(grant, "successor")
    assert (await handout.token(KEY, ask)).access_token.text() == "successor"
    assert grants.row(grant).state == "active"


def test_a_selection_of_a_whole_tenant_is_refused():
    with pytest.raises(ValueError):
        Selection(tenant="acme")


async def test_the_plan_counts_and_changes_nothing(grants, compromise, provider, clock):
    kept = [add_user(grants, 1), add_user(grants, 2), add_user(grants, 3, connection="github")]
    ended = add_user(grants, 4, refresh_token=None, renewable=False)
    plan = await compromise.plan(Selection(tenant="acme", connection="google"))
    [line] = plan.lines
    assert (line.grants, line.users, line.replaceable) == (3, 3, 2)
    assert (line.effect, line.by_hand) == ("grant", provider.revocation_by_hand)
    assert line.last_end == clock.now() + timedelta(hours=1)
    assert {grants.row(grant).state for grant in (*kept, ended)} == {"active"}


async def test_what_cannot_be_replaced_is_handed_out_no_more(
    grants, compromise, engine, vault, clock
):
    """No renewal brings another, so the leaked one would be served until it ends by itself."""
    permanent = add_user(grants, 104, refresh_token=None, renewable=False, life=None)
    refused = add_user(grants, 105, state="needs_reauth", reason="invalid_grant")
    stopped = await compromise.respond(
        Selection(tenant="acme", connection="google"), Response.REPLACE, actor="cli:ada"
    )
    assert sorted(stopped.grants) == sorted([permanent, refused])
    handout = Handout(
        grants=HandoutRepository(engine, AuditLog("test")),
        vault=vault,
        hints=Renewer(),
        clock=YieldingClock(clock),
        offload=in_place,
    )
    for number in (104, 105):
        ask = Ask(tenant="acme", connection="google", user_id=f"google-oauth2|{number}")
        with pytest.raises(NeedsLoginError):
            await handout.token(KEY, ask)
    report = await compromise.report(stopped)
    assert [(line.outcome, line.grants) for line in report.lines] == [("not_replaced", 2)]


async def test_a_replacement_is_reported_once_it_has_come(grants, compromise, clock):
    grant = add_user(grants, 104)
    stopped = await compromise.respond(
        Selection(tenant="acme", user_id="google-oauth2|104"), Response.REPLACE, actor="cli:ada"
    )
    assert (await compromise.report(stopped)).pending == 1
    clock.advance(1)
    grants.renew(grant, "successor")
    [line] = (await compromise.report(stopped)).lines
    assert (line.outcome, line.grants) == ("replaced", 1)


async def test_a_shared_refresh_token_is_withdrawn_with_its_holder(grants, compromise):
    """The alias hands out what its holder holds: stopping the alias alone would stop nothing."""
    holder = add_user(grants, 104)
    add_user(grants, 105, connection="google-2", refresh_token=None, alias_of=holder)
    selection = Selection(tenant="acme", connection="google-2")
    plan = await compromise.plan(selection)
    assert [one.id for one in plan.siblings] == [holder]
    with pytest.raises(TooWideError):
        await compromise.respond(selection, Response.REVOKE, actor="cli:ada")
    stopped = await compromise.respond(selection, Response.REPLACE, actor="cli:ada")
    assert holder in stopped.grants
