"""What happened to each grant, in a handful of counters: the referee of every rehearsal.

Memory is one `Counts` per grant, whatever happens to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields


@dataclass(slots=True)
class Counts:
    """One grant (provider, account, client), as its provider saw it."""

    logins: int = 0  # families begun
    exchanges: int = 0  # refreshes that the provider granted
    reused_in_grace: int = 0  # of these: by a token already spent, inside the grace
    reused: int = 0  # refused: the token was spent before
    most_spends: int = 0  # of one single-use refresh token, granted or refused
    overlaps: int = 0  # two exchanges of one refresh token at the same time
    refused: int = 0  # every other refusal: dead grant, wrong client, bad request
    wrong_client: int = 0  # of these: the client could not prove itself
    families_lost: int = 0  # revoked because a spent token came again
    revoked_by_user: int = 0
    revoked_by_us: int = 0
    answers_lost: int = 0  # the provider acted, its answer was kept from the client
    reads: int = 0  # API calls with a live access token
    stale_reads: int = 0  # API calls with one that was expired or dead

    def add(self, other: Counts) -> None:
        for entry in fields(self):
            mine, theirs = getattr(self, entry.name), getattr(other, entry.name)
            worst = entry.name == "most_spends"
            setattr(self, entry.name, max(mine, theirs) if worst else mine + theirs)


def total(counts: Iterable[Counts]) -> Counts:
    """All of them added up; `most_spends` is the worst of them."""
    result = Counts()
    for one in counts:
        result.add(one)
    return result


def as_json(counts: Counts) -> dict[str, int]:
    return asdict(counts)
