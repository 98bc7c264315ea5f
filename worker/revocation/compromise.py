"""Tokens have leaked: stop handing them out at once, then revoke or replace them, and report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from worker.domain.burial import COMPROMISED, Concerned, Fate, Selection, Sibling, told_outcome
from worker.domain.grant import GrantId, GrantState
from worker.domain.ports import Clock, Offload
from worker.domain.refusals import TooWideError
from worker.revocation.ports import Kin, Tombstones
from worker.revocation.reach import Nature, Reach


class Response(StrEnum):
    REVOKE = "revoke"  # end the consent: users have to log in again
    REPLACE = "replace"  # keep the consent: new access tokens now, the old ones end by themselves


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanLine:
    """What is meant on one connection of one catalogue entry."""

    connection: str
    provider: str
    grants: int
    users: int
    effect: str | None  # of a revocation; "": the provider offers none
    by_hand: str
    replaceable: int  # a renewal can bring another access token
    last_end: datetime | None  # when the last present access token ends by itself, if all do


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What would be done, before it is."""

    lines: Sequence[PlanLine]
    grants: int
    users: int
    siblings: Sequence[Sibling]  # end with them at the provider, and are not meant


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """What has been done here; the providers come afterwards."""

    grants: Sequence[GrantId]
    response: Response
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportLine:
    connection: str
    provider: str
    outcome: str  # as in `told_outcome`; of replacing: replaced, pending, not_replaced
    grants: int
    by_hand: str  # where a person ends what is not revoked
    last_error: str  # of those not replaced yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How far it has come; ask again until nothing is pending."""

    grants: int
    pending: int
    lines: Sequence[ReportLine]


class Compromise:
    """One transaction stops everything selected; the providers are worked off afterwards."""

    def __init__(
        self, *, tombstones: Tombstones, kin: Kin, reach: Reach, clock: Clock, offload: Offload
    ) -> None:
        self._tombstones = tombstones
        self._kin = kin
        self._reach = reach
        self._clock = clock
        self._offload = offload

    async def plan(self, selection: Selection) -> Plan:
        """Changes nothing."""
        return await self._offload(self._plan, selection)

    async def respond(
        self,
        selection: Selection,
        response: Response,
        *,
        actor: str,
        include_siblings: bool = False,
    ) -> Stopped:
        """From its return on none of the selected access tokens is handed out.

        Raises: TooWideError, living grants would end with these at the provider and that is not
        agreed; then nothing has changed.
        """
        return await self._offload(self._respond, selection, response, actor, include_siblings)

    async def report(self, stopped: Stopped) -> Report:
        """What has become of them so far."""
        fates = await self._offload(self._kin.fates, stopped.grants)
        return reported(fates, replaced_since=_since(stopped))

    def _plan(self, selection: Selection) -> Plan:
        meant = self._kin.selected(selection)
        groups: dict[tuple[str, str], list[tuple[Concerned, Nature]]] = {}
        for grant, nature in self._reach.with_natures(meant):
            groups.setdefault((grant.key.connection, grant.provider), []).append((grant, nature))
        return Plan(
            lines=[_plan_line(*place, group) for place, group in sorted(groups.items())],
            grants=len(meant),
            users=len({grant.user_id for grant in meant} - {None}),
            siblings=self._siblings(meant),
        )

    def _siblings(self, meant: Sequence[Concerned]) -> Sequence[Sibling]:
        """Those of the consent, and all others that have their refresh token from one of these, or
        theirs from one of those."""
        known = {grant.id for grant in meant}
        shared = {grant.alias_of for grant in meant if grant.alias_of} - known
        holders = [
            Sibling(id=one.id, key=one.key, user_id=one.user_id)
            for holder in sorted(shared)
            for one in self._kin.selected(Selection(tenant=meant[0].key.tenant, grant=holder))
        ]
        followers = self._kin.followers(known | shared)
        named = shared | {one.id for one in followers}
        of_consent = [s for s in self._reach.siblings(meant) if s.id not in named]
        return [*of_consent, *holders, *followers]

    def _respond(
        self, selection: Selection, response: Response, actor: str, include_siblings: bool
    ) -> Stopped:
        now = self._clock.now()
        if response is Response.REPLACE:
            grants = self._tombstones.withdraw(selection, why=COMPROMISED, actor=actor, now=now)
            return Stopped(grants=grants, response=response, at=now)
        siblings = tuple(one.id for one in self._siblings(self._kin.selected(selection)))
        if siblings and not include_siblings:
            raise TooWideError(siblings)
        whole = selection.and_also(siblings)
        grants = self._tombstones.bury(whole, why=COMPROMISED, actor=actor, now=now)
        return Stopped(grants=grants, response=response, at=now)


def reported(fates: Sequence[Fate], *, replaced_since: datetime | None = None) -> Report:
    """Counted by connection, entry and outcome; `replaced_since`: they were to be replaced."""
    counts: Counter[tuple[str, str, str]] = Counter()
    places: dict[tuple[str, str, str], str] = {}
    errors: dict[tuple[str, str, str], str] = {}
    for fate in fates:
        told = told_outcome(fate) if replaced_since is None else _renewal(fate, replaced_since)
        line = (fate.connection, fate.provider, told)
        counts[line] += 1
        if told != "revoked":
            places[line] = fate.by_hand or places.get(line, "")
        errors[line] = fate.last_error or errors.get(line, "")
    lines = [
        ReportLine(
            connection=connection,
            provider=provider,
            outcome=outcome,
            grants=count,
            by_hand=places.get((connection, provider, outcome), ""),
            last_error=errors[connection, provider, outcome] if outcome == "pending" else "",
        )
        for (connection, provider, outcome), count in sorted(counts.items())
    ]
    pending = sum(line.grants for line in lines if line.outcome == "pending")
    return Report(grants=len(fates), pending=pending, lines=lines)


def _renewal(fate: Fate, since: datetime) -> str:
    if fate.renewed_at is not None and fate.renewed_at >= since:
        return "replaced"
    waits = fate.replaceable and fate.state in (GrantState.ACTIVE, GrantState.SUSPECT)
    return "pending" if waits else "not_replaced"


def _since(stopped: Stopped) -> datetime | None:
    return stopped.at if stopped.response is Response.REPLACE else None


def _plan_line(
    connection: str, provider: str, group: Sequence[tuple[Concerned, Nature]]
) -> PlanLine:
    nature = group[0][1]
    ends = [grant.expires_at for grant, _ in group]
    return PlanLine(
        connection=connection,
        provider=provider,
        grants=len(group),
        users=len({grant.user_id for grant, _ in group} - {None}),
        effect=nature.effect,
        by_hand=nature.by_hand,
        replaceable=sum(grant.renewable for grant, _ in group),
        last_end=None if None in ends else max(end for end in ends if end is not None),
    )
