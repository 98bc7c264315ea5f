"""I1, I3, I4, I7, I8, I14 by the provider's ledger, when the weather has calmed.

Allowed losses are counted by the provider itself: a successor that never became durable with us, on
disk or in the store.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from tests.planted import row_of
from tests.simulation.misfortunes import Misfortunes
from tests.simulation.provider import Family
from tests.simulation.world import World
from worker.domain.exchange import Rotation
from worker.domain.grant import GrantId, GrantState
from worker.domain.secret import Secret
from worker.renewal.exchange import KNOWN_FOR
from worker.store.engine import reading
from worker.store.tables import AuditRow, CandidateRow, GrantRow, OutboxRow

_LOSABLE = (Rotation.G, Rotation.S, Rotation.F)


class Judge:
    """Raises: AssertionError, naming the seed."""

    def __init__(self, world: World, story: Misfortunes) -> None:
        self._world = world
        self._story = story
        self._prints = {world.vault.fingerprint(Secret(t)): t for t in world.ledger.families}

    def judge(self) -> None:
        self._count_candidates()
        for grant in self._story.grants:
            row = row_of(self._world.store, grant)
            about = f"seed {self._world.seed}, {self._world.ledger.rotation}, "
            about += f"{self._story.grants[grant]}: {row.state}"
            if grant in self._story.deleted:
                self._deleted(grant, row, about)
            elif grant in self._story.foreign:
                self._strangers(grant, row, about)
            elif grant in self._story.shared:
                self._alias(row, about)
            elif row.alias_of in self._story.shared:
                self._follower(row, about)
            else:
                self._ours(grant, row, about)
        self._notices()

    def _ours(self, grant: GrantId, row: Any, about: str) -> None:
        ledger, held = self._world.ledger, self._held(grant)
        families = [ledger.families[token] for token in self._story.families[grant]]
        if row.state == GrantState.NEEDS_REAUTH:
            self._story.seen["lost"] += 1
            assert ledger.rotation in _LOSABLE, about
            for family in self._not_superseded(families):
                assert family.revoked or family.newest not in held, f"{about}: still alive"
        else:
            assert row.state == GrantState.ACTIVE, about
            newest = families[-1].newest
            lives = [f for f in families if not f.revoked and f.newest in held]
            assert lives, f"{about}: of no family is the newest held"
            current = self._prints.get(row.rt_fp)
            assert current in {f.newest for f in lives}, f"{about}: {current}, not {newest}"
        for token in ledger.double_spends:
            if ledger.families[token] in families and token not in self._story.past_hold:
                successor = ledger.families[token].successor[token]
                assert successor not in held, f"{about}: {token} spent though {successor} held"
                self._story.seen["reuse of what was never answered"] += 1

    def _not_superseded(self, families: list[Family]) -> list[Family]:
        """The last login's, and what came before it as long as that one has not renewed (M3)."""
        first = max((n for n, one in enumerate(families) if len(one.tokens) > 1), default=0)
        return families[first:]

    def _strangers(self, grant: GrantId, row: Any, about: str) -> None:
        """C19, M8: found out, and left to the other; or the end came first."""
        self._story.seen[f"of strangers: {row.state}"] += 1
        if row.state == GrantState.NEEDS_REAUTH:
            family = self._world.ledger.families[self._story.families[grant][-1]]
            assert family.newest not in self._held(grant), f"{about}: not quarantined"
        else:
            assert row.state in (GrantState.QUARANTINED, GrantState.ACTIVE), about

    def _alias(self, row: Any, about: str) -> None:
        """C18: it spends nothing any more; unless its answer was lost on the way."""
        self._story.seen[f"of shared: {'alias' if row.alias_of else row.state}"] += 1
        if row.alias_of is not None:
            assert (row.rt_fp, row.due_at) == (None, None), about

    def _follower(self, row: Any, about: str) -> None:
        """C18 with C16: a store that had lost its token let the other consent, whose answer came
        first, hold it; so this one follows, whatever becomes of that one."""
        self._story.seen["holder and follower changed places"] += 1
        self._alias(row, about)

    def _deleted(self, grant: GrantId, row: Any, about: str) -> None:
        """I14: nothing is sent once a process can know, and nothing brings the grant back."""
        assert row.state == GrantState.TOMBSTONED, about
        ledger, at = self._world.ledger, self._story.deleted[grant]
        tokens = {t for f in self._story.families[grant] for t in ledger.families[f].tokens}
        sent = [when for when, token in self._world.network.sent if token in tokens]
        late = [when - at for when in sent if when > at + KNOWN_FOR + 1]
        assert not late, f"{about}: sent {late} s later"

    def _notices(self) -> None:
        """One notice per episode."""
        with reading(self._world.store) as db:
            episodes = db.execute(select(OutboxRow.episode)).scalars().all()
        assert len(episodes) == len(set(episodes)), f"seed {self._world.seed}: told twice"

    def _count_candidates(self) -> None:
        """What was kept beside the current token, by why: risen or rested meanwhile, or not."""
        with reading(self._world.store) as db:
            asked = select(AuditRow.detail).where(AuditRow.verb == "candidate_kept")
            for detail in db.execute(asked).scalars():
                self._story.seen[f"candidate kept: {detail['why']}"] += 1

    def _held(self, grant: GrantId) -> set[str]:
        """Every refresh token that was ever durable with us: in the store or on a disk."""
        with reading(self._world.store) as db:
            current = db.execute(select(GrantRow.rt_fp).where(GrantRow.id == grant)).scalars()
            kept = db.execute(
                select(CandidateRow.rt_fp).where(CandidateRow.grant_id == grant)
            ).scalars()
            found = {*current, *kept}
        for disk in self._world.disks.values():
            for entries in disk.entries.values():
                found |= {entry.rt_fp for entry in entries if entry.grant == grant}
        return {self._prints[fp] for fp in found if fp in self._prints}
