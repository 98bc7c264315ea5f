"""Renewals asked for ahead of their time: what came of it, and how many an hour bears (I12)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

FORCED_PER_HOUR = 5  # with the one that was due anyway this makes the six of I12
FORCED_GAP = timedelta(seconds=10)  # after any answer: what was just renewed is not renewed again
SOON = timedelta(seconds=5)  # due by then anyway: waiting is shorter than coming again


class Push(StrEnum):
    DUE = "due"  # it is due now or soon, or being renewed: worth waiting for
    TOO_SOON = "too_soon"  # `retry_at` says when
    IMPOSSIBLE = "impossible"  # not active, or nothing to renew with


@dataclass(frozen=True, slots=True)
class Forward:
    push: Push
    retry_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One line of a grant's history."""

    at: datetime
    actor: str
    verb: str
    detail: Mapping[str, object]
