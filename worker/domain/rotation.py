"""What each provider class allows: how long to wait, how long to lease, when to send again.

If the successor of a refresh token never became durable with us, sending the same one again is
the only move, and can only help. It hurts only while somebody holds the successor. Everything
here serves to decide, quickly and truly, that nobody does (`docs/protocol.md`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from worker.domain.exchange import Rotation
from worker.domain.grant import EarlierAttempt

PREPARE = 8.0  # seconds of a lease for what stands around the answer: connect, journal, commit
QUIET = timedelta(seconds=30)  # a strict provider may still be at work on the first request
HOLD = timedelta(seconds=600)  # after which a silent holder is taken to be gone
BEFORE_EXPIRY = timedelta(seconds=60)  # waiting longer would cost the access token


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """One class, made concrete."""

    rotation: Rotation
    grace: float  # seconds; 0 but for G
    read_timeout: float  # seconds
    lease: float  # seconds from the claim; a byte may leave until `lease - read_timeout`
    sends: int  # of one refresh token by one attempt, the first included

    @property
    def parents_live(self) -> bool:
        """Whether a token still works, and does no harm, once its successor has come."""
        return self.rotation in (Rotation.N, Rotation.M)

    @property
    def window(self) -> float:
        """Age in seconds of an attempt below which its token may be sent again at once."""
        if self.parents_live:
            return float("inf")
        return self.grace - self.read_timeout / 2 if self.rotation is Rotation.G else 0.0


def rules_for(rotation: Rotation, *, grace_seconds: float, rotated_before: bool) -> Rules:
    """The rules of a class; what the grant's own answers showed may only make them stricter.

    An entry that says "never rotates" is wrong once an answer brought a new refresh token, and
    what the old one is then worth nobody has said: F. A grace that is not known is none.
    """
    if rotation is Rotation.N and rotated_before:
        return _STRICTEST
    if rotation in (Rotation.N, Rotation.M):
        return Rules(rotation=rotation, grace=0.0, read_timeout=15.0, lease=15.0 + PREPARE, sends=2)
    if rotation is Rotation.G and grace_seconds > 0:
        return _with_grace(grace_seconds)
    if rotation is Rotation.G:
        return _STRICTEST
    return Rules(rotation=rotation, grace=0.0, read_timeout=120.0, lease=120.0 + PREPARE, sends=2)


def _with_grace(grace: float) -> Rules:
    """The lease ends inside the grace where that is possible, so that others retake in time."""
    read_timeout = min(30.0, max(4.0, grace / 3))
    lease = min(read_timeout + PREPARE, max(grace - read_timeout / 2, read_timeout + 2.0))
    return Rules(rotation=Rotation.G, grace=grace, read_timeout=read_timeout, lease=lease, sends=4)


_STRICTEST = Rules(
    rotation=Rotation.F, grace=0.0, read_timeout=120.0, lease=120.0 + PREPARE, sends=2
)
SHORTEST_LEASE = _with_grace(1.0).lease  # what a claim starts with until its class is known


def resend_after(
    rules: Rules, *, sent: int, age: float, token_age: float | None = None
) -> float | None:
    """How long this very attempt waits before sending its token again; None: it does not.

    Its connection is closed and it holds nothing, so the only question is whether the provider
    is done: at once inside the window (0.25 s, 0.5 s, …), else once after the quiet time.

    Args:
        sent: how often it has sent, > 0.
        age: seconds since it began.
        token_age: seconds since the first attempt at the token began, if that was another one:
            a grace counts from there.
    """
    token_age = max(age, token_age or 0.0)
    late = rules.rotation is Rotation.G and token_age - age >= rules.window
    if sent >= rules.sends or late:  # begun when the grace was over: one try (I12)
        return None
    haste = 0.25 * 2.0 ** (sent - 1)
    if token_age + haste < rules.window:
        return haste
    if sent > 1:
        return None
    return max(haste, QUIET.total_seconds() - age)


def may_retake(
    rules: Rules,
    earlier: EarlierAttempt,
    *,
    lease_until: datetime,
    gone: bool,
    alive: bool,
    access_expires_at: datetime | None,
    now: datetime,
) -> bool:
    """Whether another attempt may send the refresh token of `earlier` now.

    Args:
        lease_until: of `earlier`, by the store's clock, as `now` is.
        gone: proof that it holds nothing: its process is dead and its journal replayed. An
            attempt that told it is uncertain has proved it itself.
        alive: proof of the contrary: its process lives on this very host. Then only that process
            can end it, and no step of a clock may.
        access_expires_at: of the access token in the store.
    """
    gone = gone or earlier.uncertain
    if alive and not gone:
        return False
    age = now - earlier.began_at
    if not gone and now < lease_until:
        return False
    if (now - earlier.token_since).total_seconds() < rules.window:
        return True
    if age < QUIET:
        return False
    return gone or now >= hold_end(earlier.began_at, access_expires_at)


def on_trust(rules: Rules, earlier: EarlierAttempt, *, gone: bool, now: datetime) -> bool:
    """Of what `may_retake` allows: whether the end of a hold is all that speaks for it."""
    in_grace = (now - earlier.token_since).total_seconds() < rules.window
    return not (gone or earlier.uncertain or in_grace)


def hold_end(began_at: datetime, access_expires_at: datetime | None) -> datetime:
    """When a strict refresh token is sent again without any proof about its last attempt."""
    end = began_at + HOLD
    return end if access_expires_at is None else min(end, access_expires_at - BEFORE_EXPIRY)


def unproven_until(earlier: EarlierAttempt, *, gone: bool) -> datetime | None:
    """Until when this attempt, or one before it, may bring the successor once it is taken over."""
    if gone or earlier.uncertain:
        return earlier.unproven_until
    end = earlier.began_at + HOLD
    return end if earlier.unproven_until is None else max(end, earlier.unproven_until)


def held_until(unproven: datetime | None, access_expires_at: datetime | None) -> datetime | None:
    """As long as that a token may have a successor in hands of which nothing is known, and is not
    sent; None: nobody is known to be unknown."""
    if unproven is None or access_expires_at is None:
        return unproven
    return min(unproven, access_expires_at - BEFORE_EXPIRY)
