"""Instants as people type them."""

from __future__ import annotations

from datetime import datetime, timedelta

from worker.domain.errors import ConfigurationError

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def moment(text: str, now: datetime, *, option: str = "--since") -> datetime:
    """`6h` ago, or an ISO time (UTC unless it says otherwise). Raises: ConfigurationError."""
    try:
        if text[:-1].isdecimal() and text[-1] in _UNITS:
            return now - timedelta(**{_UNITS[text[-1]]: int(text[:-1])})
        at = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise ConfigurationError(
            f"{option} {text!r}: write 6h, 3d or 2026-11-23T14:00Z"
        ) from None  # fmt: skip
    return at if at.tzinfo else at.replace(tzinfo=now.tzinfo)
