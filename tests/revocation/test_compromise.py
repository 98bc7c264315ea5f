"""Tokens leaked: handing out stops at once, then they are revoked or replaced."""

from datetime import timedelta

import pytest

from tests.handout.conftest import Renewer, YieldingClock, in_place
from worker.domain.access import ApiKey, Scope
from worker.domain.burial import Selection
from worker.domain.held import Ask
from worker.domain.ports import AuditRecord
from worker.domain.refusals import AwayError
from worker.handout import Handout
from worker.revocation.compromise import Response
from worker.store.audit import AuditLog
from worker.store.handout import HandoutRepository

KEY = ApiKey(name="app", digest=b"", scopes=(Scope(),))


def add_user(grants, number, **columns):
    return grants.add(
        user_id=f"google-oauth2|{number}",
        identity_user_id=str(number),
        refresh_token=f"rt-{number}",
        **columns,
    )


async def test_a_whole_connection_is_revoked_and_reported(grants, compromise, revoker, endpoint):
    leaked = [add_user(grants, number) for number in range(3)]
    add_user(grants, 9, connection="github")
    endpoint.outcomes = [200, 200, 400]
    stopped = await compromise.respond(
        Selection(tenant="acme", connection="google"), Response.REVOKE, actor="cli:ada"
    )
    assert sorted(stopped) == sorted(leaked)
    assert (await compromise.report(stopped)).pending == 3
    await revoker.drain()
    report = await compromise.report(stopped)
    assert (report.grants, report.pending) == (3, 0)
    assert report.outcomes == {"revoked": 2, "refused": 1}


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
    assert await compromise.respond(selection, Response.REVOKE, actor="cli:ada") == [late]
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
