"""Tokens have leaked: stop handing them out at once, then revoke or replace them, and report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from worker.domain.burial import Selection
from worker.domain.grant import GrantId
from worker.domain.ports import Clock, Offload
from worker.revocation.ports import Tombstones


class Response(StrEnum):
    REVOKE = "revoke"  # end the consent: users have to log in again
    REPLACE = "replace"  # keep the consent: new access tokens now, the old ones end by themselves


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How far it has come; ask again until nothing is pending."""

    grants: int
    outcomes: Mapping[str, int]  # outcome at the provider → grants
    pending: int


class Compromise:
    """One transaction stops everything selected; the providers are worked off afterwards."""

    def __init__(self, *, tombstones: Tombstones, clock: Clock, offload: Offload) -> None:
        self._tombstones = tombstones
        self._clock = clock
        self._offload = offload

    async def respond(
        self, selection: Selection, response: Response, *, actor: str
    ) -> Sequence[GrantId]:
        """From its return on none of the selected access tokens is handed out."""
        stop = self._tombstones.bury if response is Response.REVOKE else self._tombstones.withdraw
        return await self._offload(
            stop, selection, why="compromised", actor=actor, now=self._clock.now()
        )

    async def report(self, grants: Sequence[GrantId]) -> Report:
        """What the providers have said to the revocations of these grants so far."""
        outcomes: Counter[str] = Counter()
        pending = 0
        for grant in grants:
            entries = await self._offload(self._tombstones.receipt, grant)
            pending += all(entry.verb != "erased" for entry in entries)
            told = [entry.detail or {} for entry in entries if entry.verb == "revocation"]
            outcomes.update({str(detail["outcome"]) for detail in told if detail})
        return Report(grants=len(grants), outcomes=dict(outcomes), pending=pending)
