"""What a merge of Auth0's copies would do, without doing it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Engine

from worker.domain.grant import GrantId, GrantState
from worker.domain.merge import Arrival, decide
from worker.domain.ports import Vault
from worker.store.engine import reading
from worker.store.filling import Fingerprints, theirs_of
from worker.store.merge_transaction import MergedGrant
from worker.store.merge_view import View


class Comparison:
    """Reads only: no fence is taken, no row locked, and nothing is remembered of it."""

    def __init__(self, engine: Engine, vault: Vault) -> None:
        self._engine = engine
        self._vault = vault

    def compare(self, arrivals: Sequence[Arrival], *, now: datetime) -> Sequence[MergedGrant]:
        """What `MergeRepository.merge` would decide of each, if the read were the latest."""
        with reading(self._engine) as connection:
            view = View(connection, now)
            return [self._one(view, arrival, now) for arrival in arrivals]

    def _one(self, view: View, arrival: Arrival, now: datetime) -> MergedGrant:
        prints = Fingerprints.of(arrival, self._vault)
        row = view.found(arrival.key)
        ours = None if row is None else view.ours(row, prints)
        fence = 1 if row is None else row.pull_fence + 1
        theirs = theirs_of(arrival, prints, now)
        return MergedGrant(
            key=arrival.key,
            grant=None if row is None else GrantId(row.id),
            decision=decide(ours, theirs, fence=fence, now=now, required=arrival.required),
            state=None if row is None else GrantState(row.state),
            had_tokens=row is not None and (row.upstream_at_fp or row.upstream_rt_fp) is not None,
        )
