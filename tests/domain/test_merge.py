"""The merge rules one by one, as INVARIANTS names them M1 to M9."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from worker.domain.grant import ExpiryKind, Fingerprint, GrantState
from worker.domain.merge import (
    SECOND_LOOK,
    Decision,
    Kind,
    Ours,
    Theirs,
    Waiting,
    Why,
    decide,
    state_after,
)

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
OLD_RT, OLD_AT, NEW_RT, NEW_AT = (Fingerprint(name) for name in (b"rt0", b"at0", b"rt1", b"at1"))

OURS = Ours(
    state=GrantState.ACTIVE,
    rt_fp=Fingerprint(b"renewed"),
    at_fp=Fingerprint(b"renewed-at"),
    seen=frozenset({OLD_RT, Fingerprint(b"renewed")}),
    waiting={},
    upstream_at_fp=OLD_AT,
    login="user|1:7",
    scope=frozenset({"mail", "files"}),
    expiry=ExpiryKind.AT,
    expires_at=NOW + timedelta(minutes=30),
    in_flight=False,
    pull_fence=4,
)
LOGIN = Theirs(rt_fp=NEW_RT, at_fp=NEW_AT, scope=None, login="user|1:8")
EXPIRED = replace(OURS, expires_at=NOW - timedelta(minutes=1))
DEAD = replace(EXPIRED, state=GrantState.NEEDS_REAUTH)
NO_RT = replace(OURS, rt_fp=None)
LONE_AT = replace(LOGIN, rt_fp=None)

ERASED = replace(OURS, state=GrantState.ERASED, tombstoned_at=NOW - timedelta(hours=1))


def waits(why: str, *, for_: timedelta = timedelta(0)) -> Ours:
    waiting = {NEW_RT: Waiting(why=why, since=NOW - for_)}
    return replace(OURS, waiting=waiting, seen=OURS.seen | {NEW_RT})


CASES = {
    "a first copy makes a grant": (None, LOGIN, Kind.CREATE, Why.NEW),
    "an identity without tokens makes none": (
        None,
        Theirs(rt_fp=None, at_fp=None, scope=None, login=None),
        Kind.IGNORE,
        Why.NO_TOKENS,
    ),
    "M2 the login's copy after our renewals is stale": (
        OURS,
        replace(LOGIN, rt_fp=OLD_RT, at_fp=OLD_AT),
        Kind.IGNORE,
        Why.STALE,
    ),
    "M3 a never-seen refresh token is a login": (OURS, LOGIN, Kind.ADOPT, Why.LOGIN),
    "M3 also where we had given up": (DEAD, LOGIN, Kind.ADOPT, Why.LOGIN),
    "M4 tokens that vanished say nothing": (
        OURS,
        replace(LOGIN, rt_fp=None, at_fp=None),
        Kind.IGNORE,
        Why.NO_TOKENS,
    ),
    "M5 a lone access token yields to a living one": (OURS, LONE_AT, Kind.IGNORE, Why.OURS_LIVES),
    "M5 a lone access token replaces an expired one": (
        EXPIRED,
        LONE_AT,
        Kind.TAKE_ACCESS_TOKEN,
        Why.LOGIN,
    ),
    "M5 and is all there is without refresh tokens": (
        NO_RT,
        LONE_AT,
        Kind.TAKE_ACCESS_TOKEN,
        Why.LOGIN,
    ),
    "M5 but never for fewer scopes while ours lives": (
        NO_RT,
        replace(LONE_AT, scope=frozenset({"mail"})),
        Kind.IGNORE,
        Why.FEWER_SCOPES,
    ),
    "M5 a stale refresh token beside a new access token does not come back": (
        EXPIRED,
        replace(LOGIN, rt_fp=OLD_RT),
        Kind.TAKE_ACCESS_TOKEN,
        Why.LOGIN,
    ),
    "an access token seen before is no news even when ours has expired": (
        EXPIRED,
        replace(LOGIN, rt_fp=None, at_fp=OLD_AT),
        Kind.IGNORE,
        Why.STALE,
    ),
    "M6 a login for fewer scopes than required waits": (
        OURS,
        replace(LOGIN, scope=frozenset({"mail"})),
        Kind.KEEP_CANDIDATE,
        Why.FEWER_SCOPES,
    ),
    "M6 unless nothing else works": (
        DEAD,
        replace(LOGIN, scope=frozenset({"mail"})),
        Kind.ADOPT,
        Why.LOGIN,
    ),
    "M7 a login during an exchange waits for it": (
        replace(OURS, in_flight=True),
        LOGIN,
        Kind.KEEP_CANDIDATE,
        Why.LOGIN,
    ),
    "M7 and is looked at again while the exchange lasts": (
        replace(waits(Why.LOGIN), in_flight=True),
        LOGIN,
        Kind.LOOK_AGAIN,
        Why.IN_FLIGHT,
    ),
    "M7 and takes over when the exchange never ended": (
        waits(Why.LOGIN),
        LOGIN,
        Kind.PROMOTE,
        Why.LOGIN,
    ),
    "M7 a lone access token waits for an exchange too": (
        replace(EXPIRED, in_flight=True),
        LONE_AT,
        Kind.LOOK_AGAIN,
        Why.IN_FLIGHT,
    ),
    "M8 a new refresh token without a login is kept, not trusted": (
        OURS,
        replace(LOGIN, login=OURS.login),
        Kind.KEEP_CANDIDATE,
        Why.UNEXPLAINED,
    ),
    "M8 the login may be counted a moment later": (
        waits(Why.UNEXPLAINED, for_=SECOND_LOOK),
        LOGIN,
        Kind.PROMOTE,
        Why.LOGIN,
    ),
    "M8 nobody is accused at once": (
        waits(Why.UNEXPLAINED),
        replace(LOGIN, login=OURS.login),
        Kind.LOOK_AGAIN,
        Why.UNEXPLAINED,
    ),
    "M8 a second look without a login finds another spender": (
        waits(Why.UNEXPLAINED, for_=SECOND_LOOK),
        replace(LOGIN, login=OURS.login),
        Kind.QUARANTINE,
        Why.SHARED_SPENDER,
    ),
    "M9 an identity that moved to another user is no stranger": (
        OURS,
        replace(LOGIN, login="user|2:1"),
        Kind.ADOPT,
        Why.LOGIN,
    ),
    "an old family that was superseded stays so": (
        waits("superseded_family"),
        LOGIN,
        Kind.IGNORE,
        Why.STALE,
    ),
    "M6 what waited for its scopes is taken when nothing else works": (
        replace(waits(Why.FEWER_SCOPES), state=GrantState.NEEDS_REAUTH),
        LOGIN,
        Kind.PROMOTE,
        Why.LOGIN,
    ),
    "I14 what is being revoked gets no new life, and new tokens are revoked with it": (
        replace(OURS, state=GrantState.TOMBSTONED),
        LOGIN,
        Kind.KEEP_CANDIDATE,
        Why.TOMBSTONED,
    ),
    "I14 an old copy does not bring back what is erased": (
        ERASED,
        replace(LOGIN, rt_fp=OLD_RT, consented_at=NOW),
        Kind.IGNORE,
        Why.ERASED,
    ),
    "I14 nor does a login from before, read late": (
        ERASED,
        replace(LOGIN, consented_at=ERASED.tombstoned_at),
        Kind.IGNORE,
        Why.ERASED,
    ),
    "I14 nor one whose time nobody knows": (ERASED, LOGIN, Kind.IGNORE, Why.ERASED),
    "a login made afterwards is another consent": (
        ERASED,
        replace(LOGIN, consented_at=NOW),
        Kind.CREATE_ANEW,
        Why.NEW,
    ),
}


@pytest.mark.parametrize(("ours", "theirs", "kind", "why"), CASES.values(), ids=CASES)
def test_a_copy_is_judged(ours, theirs, kind, why):
    decision = decide(ours, theirs, fence=5, now=NOW, required=frozenset({"files"}))
    assert decision == Decision(kind=kind, why=why)


@pytest.mark.parametrize("fence", [3, 4])
def test_m1_a_pull_that_began_before_the_last_merge_changes_nothing(fence):
    decision = decide(OURS, LOGIN, fence=fence, now=NOW)
    assert decision == Decision(kind=Kind.IGNORE, why=Why.OVERTAKEN)


ADOPT = Decision(kind=Kind.ADOPT, why=Why.LOGIN)
TAKE = Decision(kind=Kind.TAKE_ACCESS_TOKEN, why=Why.LOGIN)
QUARANTINED = replace(OURS, state=GrantState.QUARANTINED)
STATES = {
    "a login lifts needs_reauth": (ADOPT, DEAD, GrantState.ACTIVE),
    "a lone access token does not, beside a dead refresh token": (
        TAKE,
        DEAD,
        GrantState.NEEDS_REAUTH,
    ),
    "but does where there never was one": (TAKE, replace(DEAD, rt_fp=None), GrantState.ACTIVE),
    "a quarantine outlasts a login": (ADOPT, QUARANTINED, GrantState.QUARANTINED),
    "a stranger's spending ends renewal": (
        Decision(kind=Kind.QUARANTINE, why=Why.SHARED_SPENDER),
        OURS,
        GrantState.QUARANTINED,
    ),
}


@pytest.mark.parametrize(("decision", "ours", "state"), STATES.values(), ids=STATES)
def test_a_decision_moves_the_state(decision, ours, state):
    assert state_after(decision, ours) is state
