"""One pull's merge, inside its transaction: each decision of `domain.merge` applied and audited."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, cast
from uuid import uuid4

from sqlalchemy import Connection, Table, delete, insert, select, update

from worker.domain.grant import Fingerprint, GrantId, GrantKey, GrantPart, GrantState
from worker.domain.held import Withheld
from worker.domain.merge import (
    Arrival,
    Decision,
    Kind,
    Ours,
    Why,
    decide,
    login_is_in,
    state_after,
)
from worker.domain.ports import AuditRecord, Notice, Vault
from worker.store.filling import (
    Fingerprints,
    candidate_of,
    current_of,
    next_generation,
    reclassified,
    reschedule,
    superseded,
    theirs_of,
    unclaimed,
)
from worker.store.merge_view import View
from worker.store.pulls import Begun, fences_taken
from worker.store.seen import remembered
from worker.store.tables import CandidateRow, GrantRow, SeenRefreshTokenRow

_grants = cast(Table, GrantRow.__table__)


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedGrant:
    """What became of one identity's copy."""

    key: GrantKey
    grant: GrantId | None  # None: there was nothing to make a grant of
    decision: Decision
    state: GrantState | None
    had_tokens: bool  # Auth0's copy of this identity held tokens when it was read before
    logged_in_at: datetime | None = None  # of the family that was current before


class MergeTransaction:
    """The work of one, and what there is to audit and to tell of it."""

    def __init__(
        self,
        connection: Connection,
        vault: Vault,
        begun: Begun,
        actor: str,
        now: datetime,
        *,
        withheld: Withheld | None,
    ) -> None:
        self._db = connection
        self._vault = vault
        self._begun = begun
        self._actor = actor
        self._now = now
        self._withheld = withheld
        self._view = View(connection, now)
        self._fences = fences_taken(connection, begun.tenant)
        self.records: list[AuditRecord] = []
        self.notices: list[Notice] = []

    def one(self, arrival: Arrival) -> MergedGrant:
        prints = Fingerprints.of(arrival, self._vault)
        row = self._view.locked(arrival.key)
        ours = self._view.ours(row, prints) if row is not None else None
        theirs = theirs_of(arrival, prints, self._now)
        decision = decide(
            ours, theirs, fence=self._begun.fence, now=self._now, required=arrival.required
        )
        if row is None or ours is None:
            grant = self._create(arrival, prints) if decision.kind is Kind.CREATE else None
            state = GrantState.ACTIVE if grant else None
            return MergedGrant(
                key=arrival.key, grant=grant, decision=decision, state=state, had_tokens=False
            )
        if decision.kind is Kind.CREATE_ANEW:
            return self._anew(row, arrival, prints, decision)
        if decision.why not in (Why.OVERTAKEN, Why.ERASED) and decision.kind is not Kind.LOOK_AGAIN:
            login = theirs.login if login_is_in(decision, theirs, self._now) else row.upstream_login
            self._apply(decision, row, ours, replace(arrival, login=login), prints)
        had = row.upstream_at_fp is not None or row.upstream_rt_fp is not None
        state = state_after(decision, ours)
        return MergedGrant(
            key=arrival.key,
            grant=GrantId(row.id),
            decision=decision,
            state=state,
            had_tokens=had,
            logged_in_at=row.logged_in_at,
        )

    def detach(self, user_id: str, kept: set[GrantKey]) -> tuple[str, ...]:
        """Grants that pointed at the user whose identities are his no longer (M9).

        An unlinked identity becomes a user of its own, named after it; a linked one moves on as
        soon as its new user is pulled. Until then nobody but that name's owner may read them.
        """
        asked = (
            select(_grants)
            .where(
                GrantRow.tenant == self._begun.tenant,
                GrantRow.user_id == user_id,
                GrantRow.part.in_([GrantPart.USER.value, GrantPart.BOT.value]),
                GrantRow.pull_fence < self._begun.fence,
            )
            .order_by(GrantRow.connection, GrantRow.identity_user_id)
            .with_for_update()
        )
        accounts = {(key.connection, key.identity_user_id) for key in kept}
        owners = []
        for row in self._db.execute(asked).all():
            owner = f"{row.strategy}|{row.identity_user_id}"
            account = (row.connection, row.identity_user_id)  # a bot's pair goes where it came from
            if account not in accounts and owner != user_id:
                self._set(row.id, {"user_id": owner})
                self._record("user_moved", GrantId(row.id), {"user": owner})
                owners.append(owner)
        return tuple(dict.fromkeys(owners))

    def _create(self, arrival: Arrival, prints: Fingerprints) -> GrantId:
        grant = GrantId(uuid4())
        access, refresh = self._vault.new_keys(arrival.key.tenant, grant)
        blank = {
            "id": grant,
            "tenant": arrival.key.tenant,
            "connection": arrival.key.connection,
            "identity_user_id": arrival.key.identity_user_id,
            "part": arrival.key.part.value,
            "family": 0,
            "access_key": access,
            "refresh_key": refresh,
            "rotated_before": False,
            "fence": 0,
            "uncertain": False,
            "created_at": self._now,
        }
        state = GrantState.ACTIVE
        values = self._filled(blank, arrival, prints, generation=0, state=state)
        self._db.execute(insert(GrantRow).values(**blank, **values, **self._read(arrival, prints)))
        self._remember(grant, prints.rt)
        self._record("grant_created", grant, {"provider": arrival.provider})
        return grant

    def _anew(
        self, row: Any, arrival: Arrival, prints: Fingerprints, decision: Decision
    ) -> MergedGrant:
        """A new grant with keys of its own; of the erased one only the audit remains."""
        erased = GrantId(row.id)
        self._record("replaced_after_erasure", erased, {})
        seen = delete(SeenRefreshTokenRow).where(SeenRefreshTokenRow.grant_id == erased)
        self._db.execute(seen)
        self._db.execute(delete(GrantRow).where(GrantRow.id == erased))
        return MergedGrant(
            key=arrival.key,
            grant=self._create(arrival, prints),
            decision=decision,
            state=GrantState.ACTIVE,
            had_tokens=False,
        )

    def _apply(
        self, decision: Decision, row: Any, ours: Ours, arrival: Arrival, prints: Fingerprints
    ) -> None:
        values = self._read(arrival, prints, taken=not _passed_over(decision))
        state = state_after(decision, ours)
        match decision.kind:
            case Kind.ADOPT:
                values |= self._adopted(row, arrival, prints, state)
            case Kind.PROMOTE | Kind.QUARANTINE:
                values |= self._promoted(row, arrival, prints, state)
            case Kind.TAKE_ACCESS_TOKEN:
                values |= self._with_access_token(row, arrival, prints, state)
            case Kind.KEEP_CANDIDATE:
                values |= self._kept(row, arrival, prints, decision.why)
            case Kind.IGNORE if decision.why is Why.STALE:
                values |= self._reclassified(row, arrival)
        if row.withheld != self._withheld:
            verb = "handed_out_again" if self._withheld is None else "withheld"
            self._record(verb, row.id, {"why": self._withheld or row.withheld})
        elif self._withheld is not None:
            values["withheld_at"] = row.withheld_at
        if row.user_id != arrival.user_id:
            self._record("user_moved", row.id, {"user": arrival.user_id})
        self._set(row.id, values)
        if ours.state is GrantState.NEEDS_REAUTH and state is GrantState.ACTIVE:
            self._tell_recovery(row, arrival, values.get("generation", row.generation))
        if decision.kind is not Kind.IGNORE:
            detail = {"why": decision.why.value, "family": values.get("family", row.family)}
            self._record(_VERBS[decision.kind], row.id, detail)

    def _reclassified(self, row: Any, arrival: Arrival) -> dict[str, Any]:
        changed = reclassified(row, arrival, self._now)
        if changed:
            detail = {"provider": arrival.provider, "renewable": changed.get("renewable")}
            told = {name: value for name, value in detail.items() if value is not None}
            self._record("reclassified", row.id, told)
        return changed

    def _adopted(
        self,
        row: Any,
        arrival: Arrival,
        prints: Fingerprints,
        state: GrantState,
        held_by: GrantId | None = None,
    ) -> dict[str, Any]:
        """A new family becomes current; the old one waits until the new one has renewed (M3)."""
        self._set_aside(row)
        generation = next_generation(row)
        self._remember(row.id, prints.rt)
        filled = self._filled(
            row._mapping, arrival, prints, generation=generation, state=state, held_by=held_by
        )
        return filled | unclaimed(row) | {"family": row.family + 1}

    def _promoted(
        self, row: Any, arrival: Arrival, prints: Fingerprints, state: GrantState
    ) -> dict[str, Any]:
        """As adopted. Auth0's copy is at hand, so it is sealed anew and its candidate goes."""
        held_by = self._drop_candidate(row.id, prints.rt)
        return self._adopted(row, arrival, prints, state, held_by)

    def _with_access_token(
        self, row: Any, arrival: Arrival, prints: Fingerprints, state: GrantState
    ) -> dict[str, Any]:
        """A lone access token. Beside a refresh token it keeps its generation: both are bound
        to the row's one number, and only a renewer may open the other to seal it anew."""
        if row.rt_fp is None and row.alias_of is None:
            generation = next_generation(row)
            filled = self._filled(row._mapping, arrival, prints, generation=generation, state=state)
            return filled | unclaimed(row) | {"family": row.family + 1}
        filled = self._filled(row._mapping, arrival, prints, generation=row.generation, state=state)
        mine = ("access_token", "at_fp", "issued_at", "expiry", "expires_at", "token_type")
        return {name: filled[name] for name in mine} | reschedule(row, arrival, state, self._now)

    def _kept(self, row: Any, arrival: Arrival, prints: Fingerprints, why: Why) -> dict[str, Any]:
        generation = next_generation(row)
        self._remember(row.id, prints.rt)
        candidate = candidate_of(
            row, arrival, prints, vault=self._vault, generation=generation, why=why, now=self._now
        )
        held_by = self._view.holder(row.id, prints.rt)
        self._db.execute(insert(CandidateRow).values(**candidate, held_by=held_by))
        return {"last_generation": generation}

    def _filled(
        self,
        row: Any,
        arrival: Arrival,
        prints: Fingerprints,
        *,
        generation: int,
        state: GrantState,
        held_by: GrantId | None = None,
    ) -> dict[str, Any]:
        """`held_by`: another grant that held this refresh token before, and has spent it (C18)."""
        twin = self._view.holder(row["id"], prints.rt) or held_by
        return current_of(
            row,
            arrival,
            prints,
            vault=self._vault,
            generation=generation,
            state=state,
            alias_of=twin,
            now=self._now,
        )

    def _drop_candidate(self, grant: GrantId, rt: Fingerprint | None) -> GrantId | None:
        """Returns: whose it was when it came, if another grant's."""
        mine = (CandidateRow.grant_id == grant, CandidateRow.rt_fp == rt)
        dropped = delete(CandidateRow).where(*mine).returning(CandidateRow.held_by)
        held_by = self._db.execute(dropped).scalar_one_or_none()
        return None if held_by is None else GrantId(held_by)

    def _set_aside(self, row: Any) -> None:
        if row.rt_fp is not None:
            self._drop_candidate(row.id, row.rt_fp)
            self._db.execute(insert(CandidateRow).values(**superseded(row, self._now)))

    def _remember(self, grant: GrantId, rt: Fingerprint | None) -> None:
        if rt is not None and not self._view.seen(grant, rt):
            row = remembered(grant, rt, self._now)
            self._db.execute(insert(SeenRefreshTokenRow).values(**row))

    def _read(
        self, arrival: Arrival, prints: Fingerprints, *, taken: bool = True
    ) -> dict[str, Any]:
        """What is remembered of the read itself, whatever was decided.

        An access token that was passed over because ours lives, or has more scopes while it does,
        is not remembered: should ours end without a successor, it is news still.
        """
        values: dict[str, Any] = {
            "user_id": arrival.user_id,
            "pull_fence": self._fences,  # refuses every pull that had begun before this commit
            "withheld": self._withheld,
            "withheld_at": None if self._withheld is None else self._now,
        }
        if prints.rt is not None:
            values["upstream_rt_fp"] = prints.rt
        if prints.at is not None and taken:
            values["upstream_at_fp"] = prints.at
        if arrival.login is not None:
            values["upstream_login"] = arrival.login
        return values

    def _tell_recovery(self, row: Any, arrival: Arrival, generation: int) -> None:
        """Whoever heard that a login was needed hears that it has come: once."""
        notice = Notice(
            tenant=self._begun.tenant,
            kind="grant_recovered",
            episode=f"grant_recovered:{row.id}:{generation}",
            grant=GrantId(row.id),
            key=arrival.key,
            user_id=arrival.user_id,
            reason="login",
        )
        self.notices.append(notice)

    def _set(self, grant: GrantId, values: dict[str, Any]) -> None:
        self._db.execute(update(GrantRow).where(GrantRow.id == grant).values(**values))

    def _record(self, verb: str, grant: GrantId, detail: dict[str, object]) -> None:
        self.records.append(
            AuditRecord(
                at=self._now,
                actor=self._actor,
                verb=verb,
                tenant=self._begun.tenant,
                grant=grant,
                detail=detail,
            )
        )


def _passed_over(decision: Decision) -> bool:
    """A lone access token that is of no use as long as ours lives."""
    return decision.kind is Kind.IGNORE and decision.why in (Why.OURS_LIVES, Why.FEWER_SCOPES)


_VERBS = {
    Kind.ADOPT: "login_adopted",
    Kind.PROMOTE: "login_adopted",
    Kind.TAKE_ACCESS_TOKEN: "access_token_taken",
    Kind.KEEP_CANDIDATE: "candidate_kept",
    Kind.QUARANTINE: "quarantined",
}
