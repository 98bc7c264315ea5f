"""How attempts without tokens end: put off, left uncertain, or refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from random import Random

from worker.domain.attempt import OTHER_ACCOUNT, USER_INACTIVE, LeftUncertain, Postponed, Refused
from worker.domain.errors import TransientError, WorkerError
from worker.domain.exchange import Reading
from worker.domain.grant import Claim
from worker.domain.ports import Clock, Notice
from worker.domain.verdict import at_least, backoff, is_final, wait_for
from worker.renewal.prepared import Prepared

AWHILE = timedelta(minutes=10)  # between looks at what only an operator can mend
PARKED = timedelta(hours=24)  # between looks at what only an administrator can undo
_OF_GRACE = 3 / 4  # what is left is a third of that again: two or three more tries


class Endings:
    """Fills in times and counts; what they mean is decided in `domain.verdict`."""

    def __init__(self, *, clock: Clock, random: Random, confirm_after: timedelta) -> None:
        self._clock = clock
        self._random = random
        self._confirm_after = confirm_after

    def postponed(self, claim: Claim, code: str, due_at: datetime | None) -> Postponed:
        """Nothing was sent, so the grant has not failed."""
        return Postponed(
            grant=claim.grant,
            attempt=claim.attempt,
            fence=claim.fence,
            code=code,
            due_at=due_at,
            failures=claim.failures,
        )

    def put_off(self, claim: Claim, code: str, seconds: float) -> Postponed:
        return self.postponed(claim, code, self._clock.now() + self._jittered(seconds))

    def awhile(self, claim: Claim, code: str, *notices: Notice) -> Postponed:
        """Until an operator may have looked."""
        ending = self.put_off(claim, code, AWHILE.total_seconds())
        return replace(ending, notices=notices)

    def untried(self, claim: Claim, error: WorkerError) -> Postponed:
        """Something of ours is not to be had: until it may be, or until an operator has looked."""
        soon = error.retry_after if isinstance(error, TransientError) else None
        if soon is None:
            return self.awhile(claim, error.code)
        return self.put_off(claim, error.code, soon.total_seconds())

    def unrenewable(self, claim: Claim, code: str) -> Postponed:
        return replace(self.postponed(claim, code, None), unrenewable=True)

    def unreadable(self, claim: Claim, code: str) -> Postponed:
        """Somebody, or a disk, changed what we stored: nothing to do until a login brings another
        token, and somebody has to look."""
        notice = until_healed(claim, "grant_unreadable", code)
        return replace(self.postponed(claim, code, None), unreadable=True, notices=(notice,))

    def inactive(self, claim: Claim) -> Postponed:
        """The person has been away for too long: served to its end, and a login is asked for."""
        notice = until_healed(claim, "grant_needs_login", USER_INACTIVE)
        return replace(self.unrenewable(claim, USER_INACTIVE), notices=(notice,))

    def other_account(self, claim: Claim) -> Postponed:
        """The answer was somebody else's tokens: stop, and alarm whoever can find out why."""
        notice = notice_of(claim, "grant_other_account", OTHER_ACCOUNT)
        return replace(self.unrenewable(claim, OTHER_ACCOUNT), notices=(notice,))

    def failed(
        self, prepared: Prepared, code: str, retry_after: timedelta | None = None
    ) -> Postponed:
        """An exchange brought nothing, and surely changed nothing."""
        claim = prepared.claim
        failures = claim.failures + max(1, prepared.sent)
        gap = prepared.provider.limits.gap
        rest = at_least(self._backoff(claim, failures), gap, life=_life(claim))
        wait = wait_for(retry_after, self._inside_grace(prepared, rest))
        return replace(self.postponed(claim, code, self._clock.now() + wait), failures=failures)

    def left(self, prepared: Prepared, retry_after: timedelta | None = None) -> LeftUncertain:
        """Bytes left and nothing came back: a takeover decides, by the rules of the class."""
        claim = prepared.claim
        failures = claim.failures + prepared.sent
        rest = self._inside_grace(prepared, self._backoff(claim, failures))
        return LeftUncertain(
            grant=claim.grant,
            attempt=claim.attempt,
            fence=claim.fence,
            code=prepared.last_code,
            due_at=self._clock.now() + wait_for(retry_after, rest),
            failures=failures,
        )

    def heals(self, prepared: Prepared, code: str) -> Postponed:
        """Dead until an administrator acts, and then alive again with the same token: parked, and
        asked about once a day."""
        notice = until_healed(prepared.claim, "grant_needs_admin", code)
        return replace(self.failed(prepared, code, PARKED), parked=True, notices=(notice,))

    def refused(self, prepared: Prepared, reading: Reading) -> Refused:
        claim, now = prepared.claim, self._clock.now()
        return Refused(
            grant=claim.grant,
            tenant=claim.key.tenant,
            connection=claim.key.connection,
            user_id=claim.user_id,
            attempt=claim.attempt,
            fence=claim.fence,
            code=reading.code,
            at=now,
            heals=reading.heals,
            final=is_final(claim, now=now, confirm_after=self._confirm_after),
            unresolved_until=claim.unproven_until,
            parents_live=prepared.rules.parents_live,
            retry_at=now + self._confirm_wait(claim, now),
            notice=until_healed(claim, "grant_needs_login", reading.code),
        )

    def _confirm_wait(self, claim: Claim, now: datetime) -> timedelta:
        """Once after the confirmation time; where verdicts are held, by and by."""
        since = claim.suspect_since
        if since is None or now - since < self._confirm_after:
            return self._confirm_after
        return max(self._confirm_after, self._backoff(claim, claim.failures + 3))

    def _backoff(self, claim: Claim, failures: int) -> timedelta:
        return backoff(max(1, failures), life=_life(claim), jitter=self._random.random())

    def _inside_grace(self, prepared: Prepared, wait: timedelta) -> timedelta:
        """A token that may be spent is mended while its grace lasts and lost after it: what is
        left of that is not slept through."""
        if not prepared.may_be_spent or not prepared.rules.grace:
            return wait
        until = prepared.claim.first_claimed_at + timedelta(seconds=prepared.rules.window)
        left = until - self._clock.now()
        return min(wait, left * _OF_GRACE) if left > timedelta(0) else wait

    def _jittered(self, seconds: float) -> timedelta:
        return timedelta(seconds=seconds * (1 + self._random.random() / 4))


def until_healed(claim: Claim, kind: str, reason: str) -> Notice:
    """One for these tokens, however often they are asked about. Whatever heals the grant brings
    others, a renewal or a late answer as well as a login, and if those fail it is told again."""
    told = notice_of(claim, kind, reason)
    return replace(told, episode=f"{told.episode}:{claim.tokens.generation}")


def notice_of(claim: Claim, kind: str, reason: str) -> Notice:
    """One per family."""
    return Notice(
        tenant=claim.key.tenant,
        kind=kind,
        episode=f"{kind}:{claim.grant}:{claim.family}",
        grant=claim.grant,
        key=claim.key,
        user_id=claim.user_id,
        reason=reason,
    )


def _life(claim: Claim) -> timedelta | None:
    return claim.expires_at - claim.issued_at if claim.expires_at else None
