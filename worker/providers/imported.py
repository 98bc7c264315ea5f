"""What Auth0's copy of a token says about its end.

`identities[].expires_in` is the provider's number, stored once and never counted down; Auth0
states neither its unit nor its start. So without a known moment of issue a token that can be
renewed counts as due now, rather than as fresh for hours it no longer has.
"""

from __future__ import annotations

from datetime import UTC, datetime

from worker.domain.grant import ExpiryKind
from worker.domain.ports import ImportedExpiry
from worker.domain.secret import Secret
from worker.providers import expiry
from worker.providers.vocabulary import Entry, duration

# No lifetime in seconds is that long (31 years), and no epoch in milliseconds that short.
_EPOCH_FROM = 1e9
_EPOCH_MS_FROM = 1e12


def read(
    entry: Entry,
    *,
    access_token: Secret,
    refresh_token: Secret | None,
    expires_in: object,
    issued_at: datetime | None,
    now: datetime,
) -> ImportedExpiry:
    """Never raises. `expires_in`: seconds, an epoch, an ISO instant (`admin_*` fields), nothing."""
    if at := _absolute(expires_in, now) or _exp_claim(entry, access_token):
        first = _is_first(entry, (at - (issued_at or now)).total_seconds())
        return ImportedExpiry(kind=ExpiryKind.AT, expires_at=at, first=first)
    seconds = expiry.number(expires_in)
    if seconds == 0 and entry.zero_means == "never":
        return ImportedExpiry(kind=ExpiryKind.NEVER, expires_at=None)
    if not seconds and entry.absent_means == "never":
        return ImportedExpiry(kind=ExpiryKind.NEVER, expires_at=None)
    lifetime = seconds or _declared(entry)
    at = expiry.moment("seconds", lifetime, issued_at) if issued_at else None
    if at is None and (lifetime or refresh_token):
        at = now
    kind = ExpiryKind.AT if at else ExpiryKind.UNTOLD
    return ImportedExpiry(kind=kind, expires_at=at, first=_is_first(entry, seconds))


def _is_first(entry: Entry, seconds: float | None) -> bool:
    """Whether a token is still the login's, to be exchanged once: it lives no longer than twice
    what such tokens live, or nobody tells. One that was exchanged before lives for weeks."""
    if entry.first is None:
        return False
    lives = duration(entry.first.lives)
    return not seconds or (lives is not None and seconds <= 2 * lives.total_seconds())


def _absolute(value: object, now: datetime) -> datetime | None:
    amount = expiry.number(value)
    if amount is None:
        return expiry.moment("iso", value, now)
    if amount < _EPOCH_FROM:
        return None
    form = "epoch_ms" if amount >= _EPOCH_MS_FROM else "epoch"
    return expiry.moment(form, amount, datetime.fromtimestamp(0, UTC))


def _exp_claim(entry: Entry, access_token: Secret) -> datetime | None:
    if all(form.form != "jwt_exp" for form in entry.expiry):
        return None
    return expiry.moment("epoch", expiry.jwt_exp(access_token), datetime.fromtimestamp(0, UTC))


def _declared(entry: Entry) -> float | None:
    lifetime = duration(entry.first.lives if entry.first else entry.lifetimes.access)
    return lifetime.total_seconds() if lifetime else None
