"""What is told about a grant: what happens next, and whose turn it is."""

from datetime import timedelta

import pytest

from tests.clock import T0
from tests.handout.conftest import ask
from worker.domain.ports import AuditRecord
from worker.handout.explain import what_next

CASES = {
    "renewed in time": ({}, None, "renewed when due", None),
    "it is due": ({"late": True}, None, "renewed now: it is due", None),
    "the provider is away": (
        {"failures": 2, "last_error": "http_503"},
        None,
        "tried again after 2 failures, the last: http_503",
        None,
    ),
    "an administrator at the provider has to act": (
        {"failures": 2, "last_error": "invalid_grant AADSTS53003", "reason": "AADSTS53003"},
        None,
        "parked: an administrator at the provider has to act (AADSTS53003); the same refresh token "
        "is tried once a day, and after `evergrant connections reopen`",
        "operator",
    ),
    "the connection is stopped": (
        {},
        "invalid_client",
        "nothing until an operator mends the connection: invalid_client; check its client id and "
        "secret, at Auth0 and at the provider; if Auth0 had them wrong, `evergrant sync "
        "connections`; then `evergrant connections reopen google`",
        "operator",
    ),
    "refused once": (
        {"state": "suspect"},
        None,
        "asked once more before the refusal is believed",
        None,
    ),
    "refused for good": (
        {"state": "needs_reauth", "reason": "invalid_grant"},
        None,
        "waits for the user to log in again: invalid_grant",
        "user",
    ),
    "spent by somebody else": (
        {"state": "quarantined", "reason": "shared_spender"},
        None,
        "waits for an operator: shared_spender",
        "operator",
    ),
    "nothing to renew with": (
        {"renewable": False, "reason": "no_refresh_token"},
        None,
        "served until it ends, then a login is needed: no_refresh_token",
        "operator",
    ),
    "it never ends": (
        {"renewable": False, "life": None},
        None,
        "nothing to do: the token does not end",
        None,
    ),
    "revoked": (
        {"state": "tombstoned"},
        None,
        "the provider is asked to end it, if it can be, then the keys here are destroyed",
        None,
    ),
    "blocked at Auth0": (
        {"withheld": "user_blocked"},
        None,
        "renewed, but handed to nobody while Auth0 has the user blocked",
        "operator",
    ),
    "it ends whatever we do": (
        {
            "logged_in_at": T0,
            "warned_at": T0 + timedelta(days=9),
            "refresh_expires_at": T0 + timedelta(days=16),
        },
        None,
        "renewed when due, until 2026-01-17 12:00+00:00: only a new login outlives that",
        "user",
    ),
    "erased": ({"state": "erased"}, None, "nothing: erased", None),
}


@pytest.mark.parametrize(("columns", "stopped", "step", "who"), CASES.values(), ids=CASES)
def test_the_next_step_is_told(repository, grants, clock, columns, stopped, step, who):
    columns = dict(columns)
    late = columns.pop("late", False)
    grants.add(**columns)
    if late:
        clock.advance(46 * 60)
    (held,) = repository.find(ask())
    assert what_next(held, stopped, clock.now()) == (step, who)


def test_no_read_selects_a_refresh_token(web_engine, repository, grants, clock):
    """I17: the database role of the web process needs no right to that column."""
    from sqlalchemy import event

    grant = grants.add()
    said = []
    event.listen(web_engine, "before_cursor_execute", lambda *args: said.append(args[2]))
    repository.find(ask())
    repository.find(ask(identity="104"))
    repository.find(ask(user_id=None))
    repository.of_user("acme", "google-oauth2|104")
    repository.by_id(grant)
    repository.bring_forward(grant, clock.now(), actor="key:app")
    repository.timeline(grant, 10)
    repository.candidates(grant)
    selected = [text for text in said if "SELECT" in text.upper() or "UPDATE" in text.upper()]
    assert len(selected) >= 8
    assert not any("refresh_token" in text or "refresh_key" in text for text in selected)


def renewed_together(repository, grants, clock, *ids):
    """What settling leaves of a group of renewals: one entry, and each row's instant."""
    at = clock.now()
    told = [[str(grant), grants.row(grant).generation + 1, 7] for grant in ids]
    detail = {"grants": told}
    repository.record(
        [AuditRecord(at=at, actor="worker:n1", verb="renewed", tenant="acme", detail=detail)]
    )
    for grant in ids:
        grants.renew(grant, "at-next")


def test_renewals_written_in_groups_are_in_the_history(repository, grants, clock):
    ours, other = grants.add(), grants.add(identity_user_id="105")
    for _ in range(3):
        renewed_together(repository, grants, clock, other, ours)
        clock.advance(3600)
    renewed_together(repository, grants, clock, other)
    told = repository.timeline(ours, 10)
    assert [moment.verb for moment in told] == ["renewed"] * 3
    assert [moment.detail for moment in told] == [
        {"generation": generation, "fence": 7} for generation in (3, 2, 1)
    ]


def test_the_history_is_bounded(repository, grants, clock):
    grant = grants.add()
    for _ in range(5):
        renewed_together(repository, grants, clock, grant)
        clock.advance(3 * 86_400)
    assert len(repository.timeline(grant, 10)) == 3, "a week before the latest renewal"
    assert len(repository.timeline(grant, 2)) == 2
