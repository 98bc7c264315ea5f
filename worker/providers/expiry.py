"""When a token ends, in whatever form it is told. Untold, never and a moment are three things."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from worker.domain.grant import ExpiryKind
from worker.domain.secret import Secret
from worker.providers import paths
from worker.providers.vocabulary import Entry, Expiry, duration

LONGEST = timedelta(days=36525)  # a century: what is longer is a mistake, not a lifetime
_LONGEST_SECONDS = LONGEST.total_seconds()
_SHORTEST = timedelta(seconds=1)  # below that it would be no lifetime at all to the schedule
_NUMBERS = (int, float, str)
_DEFAULT: Sequence[Expiry] = (
    Expiry(form="seconds", path="expires_in"),
    Expiry(form="declared"),
)


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer says about expiry."""

    kind: ExpiryKind
    at: datetime | None = None
    problem: str = ""


def told(entry: Entry, content: Any, *, access_token: Secret, asked_at: datetime) -> Told:
    """Read the expiry from a parsed answer.

    Seconds count from `asked_at`, read before the request left: our own clock, and early rather
    than late by what the answer took. Never raises; nonsense is noted and passed over.
    """
    problem = ""
    for form in entry.expiry or _DEFAULT:
        value = _raw(form, entry, content, access_token)
        if value is None or value == "":
            continue
        if form.form == "seconds" and number(value) == 0:
            if entry.zero_means == "never":
                return Told(kind=ExpiryKind.NEVER)
        elif (at := moment(form.form, value, asked_at)) is not None and at > asked_at:
            return Told(kind=ExpiryKind.AT, at=max(at, asked_at + _SHORTEST), problem=problem)
        problem = "expiry makes no sense"
    if not problem and entry.absent_means == "never":
        return Told(kind=ExpiryKind.NEVER)
    return Told(kind=ExpiryKind.UNTOLD, problem=problem)


def moment(form: str, value: object, since: datetime) -> datetime | None:
    """The instant that `value` names in `form`; None for what names none."""
    if form == "iso":
        at = _iso(value)
        return at if at is not None and at <= since + LONGEST else None
    amount = number(value)
    if amount is None:
        return None
    if form in {"seconds", "declared"}:
        return since + timedelta(seconds=amount) if 0 < amount <= _LONGEST_SECONDS else None
    seconds = amount / 1000 if form == "epoch_ms" else amount
    horizon = (since + LONGEST).timestamp()
    return datetime.fromtimestamp(seconds, UTC) if 0 < seconds <= horizon else None


def number(value: object) -> float | None:
    """A finite number, also from digits in a string; no booleans, no NaN."""
    if isinstance(value, bool) or not isinstance(value, _NUMBERS):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def jwt_exp(token: Secret) -> object:
    """The `exp` claim, unverified: it only schedules, it never proves. None if there is none."""
    return jwt_claim(token, "exp")


def jwt_claim(token: Secret, name: str) -> object:
    """A claim, unverified; None where there is none, or no JWT. Never raises."""
    parts = token.reveal().split(b".")
    if len(parts) != 3:
        return None
    try:
        payload = base64.urlsafe_b64decode(parts[1] + b"=" * (-len(parts[1]) % 4))
        claims = msgspec.json.decode(payload)
    except (ValueError, binascii.Error, RecursionError):
        return None
    return claims.get(name) if isinstance(claims, dict) else None


def _raw(form: Expiry, entry: Entry, content: Any, access_token: Secret) -> object:
    if form.form == "declared":
        declared = duration(entry.lifetimes.access)
        return declared.total_seconds() if declared else None
    if form.form == "jwt_exp":
        return jwt_exp(access_token)
    return paths.first_at(content, [form.path])


def _iso(value: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found and found.tzinfo is None else found
