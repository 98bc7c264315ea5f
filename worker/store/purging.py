"""Keeps the store bounded: spent candidates, events given up, fingerprints that are no news.

A refresh token that rotates hourly leaves 24 fingerprints a day. What has to be known for good is
what might be read again: the token that Auth0 keeps from the login (it stays there long after it
was spent), the one in use, and those kept beside it. Our own successors never reach Auth0, and no
journal is kept for as long as `before` goes back.
"""

from __future__ import annotations

from datetime import datetime
from typing import cast
from uuid import UUID

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Engine,
    Table,
    and_,
    bindparam,
    delete,
    func,
    or_,
    select,
    text,
    tuple_,
    update,
)

from worker.domain.grant import GrantState
from worker.store.engine import writing
from worker.store.seen import is_of
from worker.store.tables import CandidateRow, GrantRow, InboxRow, PullRow, SeenRefreshTokenRow

BATCH = 5_000  # rows a transaction
SLICES = 24  # a round through all grants takes as many purges

_seen = cast(Table, SeenRefreshTokenRow.__table__)
_inbox = cast(Table, InboxRow.__table__)
_candidates = cast(Table, CandidateRow.__table__)
_STUCK = text("inbox.state IN ('failed', 'unreadable')")  # in the words of the partial index
_BEGINNING = ("", "")
_pulls = cast(Table, PullRow.__table__)
_FORGET = delete(_seen).where(
    _seen.c.grant_id == bindparam("b_id"), _seen.c.fp == bindparam("b_fp")
)


class Purge:
    """Each call is one short transaction. One that returns less than `limit` found no more."""

    def __init__(self, engine: Engine, *, limit: int = BATCH) -> None:
        self._engine, self._limit = engine, limit
        self._reached = UUID(int=0)  # of the fingerprints: no row is looked at twice
        self._walked = _BEGINNING  # of the pulls

    def candidates(self, *, before: datetime) -> int:
        """Drop those proven spent before that; what may still be tried stays. Returns how many."""
        old = select(_candidates.c.id).where(_candidates.c.spent_at < before).limit(self._limit)
        with writing(self._engine) as connection:
            gone = connection.execute(delete(_candidates).where(_candidates.c.id.in_(old)))
            return gone.rowcount

    def given_up(self, *, before: datetime) -> int:
        """Drop failed and unreadable events received before that; reconciles made up for them."""
        old = select(_inbox.c.id).where(_inbox.c.received_at < before, _STUCK).limit(self._limit)
        with writing(self._engine) as connection:
            return connection.execute(delete(_inbox).where(_inbox.c.id.in_(old))).rowcount

    def fingerprints(self, *, before: datetime, part: int) -> int:
        """Drop those seen before that, of one slice of the grants; `part` counts up for ever.

        The next call goes on where this one ended.
        """
        old = (
            select(_seen.c.grant_id, _seen.c.fp)
            .where(
                _slice(part % SLICES),
                _seen.c.grant_id >= self._reached,
                _seen.c.seen_at < before,
                ~_needed(),
            )
            .order_by(_seen.c.grant_id)
            .limit(self._limit)
        )
        with writing(self._engine) as connection:
            keys = [{"b_id": row.grant_id, "b_fp": row.fp} for row in connection.execute(old)]
            if keys:
                connection.execute(_FORGET, keys)
                self._reached = keys[-1]["b_id"]
        return len(keys)

    def pulls(self, *, before: datetime, now: datetime, part: int) -> int:
        """Drop pull fences of users who have no grant here and whom nobody has read since
        `before`; once a day, in one walk through all of them.

        A fence that is gone refuses whatever pull had it, and the next one takes a higher number
        from the tenant's counter, which stays (M1). Rows that do not tell their age, as versions
        before this one left them, are given `now`.
        """
        if part % SLICES:
            return 0
        key = tuple_(_pulls.c.tenant, _pulls.c.subject)
        old = (
            select(_pulls.c.tenant, _pulls.c.subject)
            .where(key > tuple_(*self._walked), _idle_since(before), ~_has_grants())
            .where(_pulls.c.subject.startswith("user:"))
            .order_by(_pulls.c.tenant, _pulls.c.subject)
            .limit(self._limit)
        )
        with writing(self._engine) as connection:
            if self._walked == _BEGINNING:
                connection.execute(_AGELESS, {"b_now": now})
            keys = [{"b_tenant": r.tenant, "b_subject": r.subject} for r in connection.execute(old)]
            if keys:
                connection.execute(_FORGET_PULL, [{**one, "b_before": before} for one in keys])
                self._walked = (keys[-1]["b_tenant"], keys[-1]["b_subject"])
        return len(keys)


def _idle_since(before: datetime | BindParameter[datetime]) -> ColumnElement[bool]:
    """Neither begun nor ended since."""
    begun, ended = _pulls.c.reserved_at, _pulls.c.pulled_at
    return and_(
        or_(begun.is_not(None), ended.is_not(None)),
        or_(begun.is_(None), begun < before),
        or_(ended.is_(None), ended < before),
    )


def _has_grants() -> ColumnElement[bool]:
    return (
        select(GrantRow.id)
        .where(
            GrantRow.tenant == _pulls.c.tenant,
            GrantRow.user_id == func.substr(_pulls.c.subject, len("user:") + 1),
            GrantRow.state != GrantState.ERASED.value,
        )
        .exists()
    )


_AGELESS = (
    update(_pulls)
    .where(_pulls.c.reserved_at.is_(None), _pulls.c.pulled_at.is_(None))
    .values(reserved_at=bindparam("b_now"))
)
_FORGET_PULL = delete(_pulls).where(
    _pulls.c.tenant == bindparam("b_tenant"),
    _pulls.c.subject == bindparam("b_subject"),
    _idle_since(bindparam("b_before")),
)


def _slice(part: int) -> ColumnElement[bool]:
    """Ids are random: equal parts of their range hold equally many grants."""
    step = (1 << 128) // SLICES
    lower = _seen.c.grant_id >= UUID(int=part * step)
    return lower if part == SLICES - 1 else lower & (_seen.c.grant_id < UUID(int=(part + 1) * step))


def _needed() -> ColumnElement[bool]:
    """Read again tomorrow, perhaps: Auth0's copy, the current token, a candidate."""
    current = or_(is_of(_seen.c.fp, GrantRow.rt_fp), is_of(_seen.c.fp, GrantRow.upstream_rt_fp))
    held = select(GrantRow.id).where(GrantRow.id == _seen.c.grant_id, current).exists()
    kept = (
        select(_candidates.c.id)
        .where(_candidates.c.grant_id == _seen.c.grant_id, is_of(_seen.c.fp, _candidates.c.rt_fp))
        .exists()
    )
    return or_(held, kept)
