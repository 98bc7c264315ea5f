"""What a connection's own answers taught us beyond its catalogue entry.

Two things are learned: how long access tokens live where nobody tells (from the ages at which the
provider refused them), and that a provider treats refresh tokens otherwise than its entry says.
What is learned makes us more careful, never less: a life shorter than declared, a class stricter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any

REPORTS_KEPT = 20  # refused tokens, one per grant, the latest
REPORTS_NEEDED = 3  # different grants: one API that answers 401 for another reason is not enough
SHORTEST_LIFE = timedelta(minutes=5)  # nobody who asks can make us renew more often than this


class Change(StrEnum):
    """How a provider's answers differ from what its entry says of refresh tokens."""

    ROTATES = "rotates"  # declared to stay, but new ones come
    KEEPS = "keeps"  # declared to be replaced, but none comes any more


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """Of one connection."""

    life: timedelta | None = None  # of an access token whose end nobody tells
    rotating: frozenset[str] = field(default_factory=frozenset)  # entries: see `Change.ROTATES`


NOTHING = Learned()


def with_report(refused: Mapping[str, float], grant: str, age: float) -> dict[str, float]:
    """The reports with one more: the provider refused a grant's access token at that age.

    Args:
        refused: grant id → age in seconds, oldest report first.
    """
    others = {known: seconds for known, seconds in refused.items() if known != grant}
    return dict([*others.items(), (grant, age)][-REPORTS_KEPT:])


def life_from(refused: Mapping[str, float]) -> timedelta | None:
    """How long access tokens surely live no longer than; None: not enough is known.

    A token is refused some time after it ended, so every age is too long; a report may also be
    wrong, and then it is mostly too short. The second lowest of at least three is neither.
    """
    if len(refused) < REPORTS_NEEDED:
        return None
    return max(SHORTEST_LIFE, timedelta(seconds=sorted(refused.values())[1]))


def learned_from(row: Mapping[str, Any] | None) -> Learned:
    """Of the column `connections.learned`."""
    if not row:
        return NOTHING
    return Learned(
        life=life_from(row.get("refused", {})),
        rotating=frozenset(row.get(Change.ROTATES, {})),
    )


def shorter(declared: timedelta | None, learned: timedelta | None) -> timedelta | None:
    """The life to reckon with: what was learned never makes it longer than declared."""
    known = [life for life in (declared, learned) if life is not None]
    return min(known, default=None)
