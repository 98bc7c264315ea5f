"""Dated changes of providers: which of them an operator wants to hear of today."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

from worker.providers.vocabulary import Dated

AHEAD = dt.timedelta(days=180)  # an application may have to be registered anew
AFTER = dt.timedelta(days=60)  # what has changed since the last look


def near(changes: Iterable[Dated], today: dt.date) -> list[Dated]:
    """Announced for the next half year, or in force for less than two months; by date."""
    found = [change for change in changes if today - AFTER <= change.on <= today + AHEAD]
    return sorted(found, key=lambda change: change.on)


def sentence(change: Dated, today: dt.date) -> str:
    """With how far off it is."""
    days = (change.on - today).days
    far = f"{abs(days)} day{'s' if abs(days) > 1 else ''}"
    off = "today" if days == 0 else f"in {far}" if days > 0 else f"{far} ago"
    return " ".join(
        filter(None, [f"{change.on.isoformat()} ({off}): {change.what}", change.advice])
    )
