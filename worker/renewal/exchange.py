"""One attempt from its request to its ending: pin, gate, send, salvage, journal, judge."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import structlog

from worker.domain.attempt import Brought, Ending, Postponed
from worker.domain.errors import (
    ConfigurationError,
    KeyringError,
    PermanentError,
    TamperError,
    TransientError,
)
from worker.domain.exchange import (
    HOST_CHANGED,
    Answered,
    NotSent,
    Outcome,
    Reading,
    Verdict,
    WireRequest,
)
from worker.domain.grant import Claim, GrantId
from worker.domain.ports import Clock, Notice, Provider, TokenEndpoint
from worker.domain.rotation import held_until, resend_after
from worker.domain.schedule import in_vain
from worker.domain.verdict import needs_reread
from worker.renewal.breaking import broke
from worker.renewal.counting import Counting
from worker.renewal.endings import Endings
from worker.renewal.lanes import Lane
from worker.renewal.ports import Journal
from worker.renewal.prepared import Prepared
from worker.renewal.salvaging import Salvager

# Answers that say as little as silence: a proxy gave up, the provider may have acted (C7).
_AS_GOOD_AS_NONE = frozenset({500, 502, 504})
KNOWN_FOR = 5.0  # seconds; how old the knowledge may be that a claim is still ours
_DOUBT = timedelta(minutes=10)  # until it is asked whether the configuration is really wrong
_UNREADABLE = Reading(verdict=Verdict.TRANSIENT, code="unreadable")
_log = structlog.get_logger(__name__)

Extend = Callable[[Prepared], Awaitable[bool]]
StopConnection = Callable[[Prepared, str], Awaitable[bool]]
ApproveHost = Callable[[Prepared, str], Awaitable[str | None]]
SharePause = Callable[[str, float, str], None]


class Exchanger:
    """Carries prepared attempts out. Never raises: every path ends in endings to be written."""

    def __init__(
        self,
        *,
        endpoint: TokenEndpoint,
        salvager: Salvager,
        endings: Endings,
        journal: Journal,
        clock: Clock,
        extend: Extend,
        stop_connection: StopConnection,
        approve_host: ApproveHost,
        share_pause: SharePause,
        journaled: Callable[[Brought, int], None],
        counting: Counting,
    ) -> None:
        self._endpoint = endpoint
        self._salvager = salvager
        self._endings = endings
        self._journal = journal
        self._clock = clock
        self._extend = extend
        self._stop_connection = stop_connection
        self._approve_host = approve_host
        self._share_pause = share_pause
        self._journaled = journaled
        self._counting = counting
        self.stopping = False
        self.journal_away = False
        self.known_at = float("-inf")  # monotonic; as of when the next is known
        # grant and fence of what was deleted or taken over meanwhile: the gate stays shut
        self.abandoned: set[tuple[GrantId, int]] = set()

    async def make_ready(self, prepared: Prepared) -> Prepared | Ending:
        """Open what is spent, build the request, pin the host; an ending, if that fails."""
        claim = prepared.claim
        try:
            request = await self._request(prepared)
        except ConfigurationError as error:
            return await self._blame_connection(prepared, error.code, str(error))
        except TamperError as error:  # until a login brings another token
            _log.error("grant_unusable", grant=str(claim.grant), code=error.code)
            return self._endings.unreadable(claim, error.code)
        except (TransientError, PermanentError) as error:
            return self._wait_for(claim, error)
        except Exception as error:
            return self._endings.awhile(claim, broke("request_broke", error, claim.grant))
        if isinstance(request, Postponed):
            return request
        prepared.wire = request
        return prepared

    async def carry_out(self, prepared: Prepared, lane: Lane) -> list[Ending]:
        """Never raises; whatever went wrong, bytes may have left."""
        try:
            return await self._send(prepared, lane)
        except Exception as error:
            prepared.sent = max(1, prepared.sent)
            prepared.last_code = broke("attempt_broke", error, prepared.claim.grant)
            return [self._endings.left(prepared)]

    def _wait_for(self, claim: Claim, error: TransientError | PermanentError) -> Postponed:
        """No fault of the grant's: a key of ours, or the store while the host was pinned."""
        if isinstance(error, KeyringError):
            _log.error("key_missing", tenant=claim.key.tenant, code=error.code, why=str(error))
            return self._endings.untried(claim, error)
        if isinstance(error, TransientError):
            return self._endings.put_off(claim, error.code, 5.0)
        _log.error("not_made_ready", grant=str(claim.grant), code=error.code, why=str(error))
        return self._endings.put_off(claim, error.code, 60.0)

    async def _request(self, prepared: Prepared) -> WireRequest | Postponed:
        """Raises: ConfigurationError, TamperError, TransientError, PermanentError."""
        claim, provider, now = prepared.claim, prepared.provider, self._clock.now()
        if (until := self._held_until(prepared, now)) is not None:
            return self._endings.postponed(claim, "unproven", until)
        if (held_back := self._held_back(claim, provider, now)) is not None:
            return held_back
        prepared.keys = self._salvager.keys(claim)
        subject = self._salvager.subject(prepared, provider.spends)
        if subject is None:
            missing = "no_refresh_token" if provider.spends == "rt" else "no_access_token"
            return self._endings.unrenewable(claim, missing)
        request = provider.request(
            prepared.connection,
            subject=subject,
            scope=claim.scope,
            now=now,
            # every token that may be renewed bears the time before which that is refused
            first=provider.lifetimes.first is not None and claim.not_before is None,
        )
        return await self._pinned(prepared, request)

    def _held_back(self, claim: Claim, provider: Provider, now: datetime) -> Postponed | None:
        """Why nothing is to be asked now, or at all; None: ask."""
        if claim.not_before is not None and claim.not_before > now:
            return self._endings.postponed(claim, "not_before", claim.not_before)
        if needs_reread(claim):
            return self._endings.put_off(claim, "await_reread", 30.0)
        if provider.spends not in ("rt", "at"):
            return self._endings.unrenewable(claim, "not_renewable")
        if provider.not_renewable is not None:  # as the connection is set up today
            return self._endings.awhile(claim, "not_renewable")
        if in_vain(logged_in_at=claim.logged_in_at, lifetimes=provider.lifetimes, now=now):
            return self._endings.inactive(claim)
        return None

    def _held_until(self, prepared: Prepared, at: datetime) -> datetime | None:
        """Whether it must not be sent `at` that time: an attempt that took over without proof knows
        no more of the one before it, nor does whoever has its claim afterwards (I4)."""
        claim = prepared.claim
        if (at - claim.first_claimed_at).total_seconds() < prepared.rules.window:
            return None
        until = held_until(claim.unproven_until, claim.expires_at)
        return until if until is not None and at < until else None

    async def _pinned(self, prepared: Prepared, request: WireRequest) -> WireRequest | Postponed:
        """I13: tokens go to the host that was approved for the connection, and to no other."""
        approved = prepared.connection.approved_host
        if approved is None:  # when it was read; others may have come first since
            approved = await self._approve_host(prepared, request.host)
        if approved is None:
            return self._endings.awhile(prepared.claim, "no_connection")
        if approved != request.host:
            why = f"{HOST_CHANGED} from {approved} to {request.host}"
            return await self._blame_connection(prepared, "host_changed", why)
        return request

    async def _send(self, prepared: Prepared, lane: Lane) -> list[Ending]:
        """Send, and send again as the class allows, until something is known."""
        while True:
            asked_at, started = self._clock.now(), self._clock.monotonic()
            outcome = await self._endpoint.exchange(
                prepared.request,
                gate=lambda: self._may_send(prepared),
                read_timeout=prepared.rules.read_timeout,
            )
            self._observe(prepared, outcome, started)
            if isinstance(outcome, NotSent):
                return [self._not_sent(prepared, outcome, lane)]
            prepared.sent += 1
            if isinstance(outcome, Answered):
                endings = await self._answered(prepared, outcome, lane, asked_at)
                if endings:
                    return endings
            else:
                self._trouble(lane)
                prepared.last_code = outcome.reason
            if not await self._may_resend(prepared):
                return [self._endings.left(prepared)]

    def _may_send(self, prepared: Prepared) -> bool:
        """The gate, asked at the write itself, on a clock that never steps (I6).

        A process that stood still, or cannot reach the store, does not know what was deleted
        meanwhile, and so may not send either (I14).
        """
        now = self._clock.monotonic()
        return (
            now < prepared.send_before
            and now - max(prepared.began, self.known_at) < KNOWN_FOR
            and not self.stopping
            and (prepared.claim.grant, prepared.claim.fence) not in self.abandoned
        )

    async def _may_resend(self, prepared: Prepared) -> bool:
        """The same token once more, as its class allows, under a lease that covers it."""
        age = self._clock.monotonic() - prepared.began
        before = (prepared.claim.claimed_at - prepared.claim.first_claimed_at).total_seconds()
        wait = resend_after(prepared.rules, sent=prepared.sent, age=age, token_age=age + before)
        if wait is None or self.stopping or _was_hasty(prepared.claim):
            return False
        then = self._clock.now() + timedelta(seconds=wait)
        if self._held_until(prepared, then) is not None:
            return False
        await self._clock.sleep(wait)
        return not self.stopping and await self._extend(prepared)

    async def _answered(
        self, prepared: Prepared, answer: Answered, lane: Lane, asked_at: datetime
    ) -> list[Ending]:
        """The endings of an answer; none where it is as good as no answer at all (C7)."""
        reading = self._read(prepared, answer, asked_at)
        brought, reading = self._salvaged(prepared, answer, reading, asked_at)
        if brought is not None and brought.rotated:
            await self._keep(brought)  # before anything is judged (I3)
        try:
            return await self._ended(prepared, answer, lane, reading, brought)
        except Exception as error:
            prepared.last_code = broke("judging_broke", error, prepared.claim.grant)
            left = self._endings.left(prepared)
            return [left] if brought is None else [brought] if brought.read else [brought, left]

    async def _ended(
        self,
        prepared: Prepared,
        answer: Answered,
        lane: Lane,
        reading: Reading,
        brought: Brought | None,
    ) -> list[Ending]:
        if brought is not None and brought.read:
            lane.pace.answered()
            return [brought]
        if answer.status in _AS_GOOD_AS_NONE and brought is None:
            self._trouble(lane)
            prepared.last_code = f"http_{answer.status}"
            return []
        judged = await self._judged(prepared, reading, answer, lane)
        return [judged] if brought is None else [brought, judged]

    def _read(self, prepared: Prepared, answer: Answered, asked_at: datetime) -> Reading:
        """A fault in our own reading must not cost what the answer brought."""
        try:
            return prepared.provider.read(answer, asked_at=asked_at)
        except Exception as error:
            broke("reading_broke", error, prepared.claim.grant)
            return _UNREADABLE

    def _salvaged(
        self, prepared: Prepared, answer: Answered, reading: Reading, asked_at: datetime
    ) -> tuple[Brought | None, Reading]:
        """Nor must one in making a renewal of it: then its tokens are kept as they are (I3)."""
        try:
            return self._salvager.brought(prepared, answer, reading, asked_at=asked_at), reading
        except Exception as error:
            broke("salvage_broke", error, prepared.claim.grant)
            unread = self._salvager.brought(prepared, answer, _UNREADABLE, asked_at=asked_at)
            return unread, _UNREADABLE

    async def _keep(self, brought: Brought) -> None:
        """A disk that refuses stops new claims; these tokens stay in memory until the store has
        them, and go there at once."""
        try:
            self._journaled(brought, await self._journal.append(brought))
        except TransientError:
            self.journal_away = True
        except Exception as error:
            self.journal_away = True
            broke("journal_broke", error, brought.grant)

    async def _judged(
        self, prepared: Prepared, reading: Reading, answer: Answered, lane: Lane
    ) -> Ending:
        if reading.verdict is Verdict.RENEWED:
            lane.pace.answered()
            _log.error("other_account", grant=str(prepared.claim.grant))
            return self._endings.other_account(prepared.claim)
        if reading.verdict is Verdict.GRANT_DEAD:
            lane.pace.answered()
            if reading.heals:
                return self._endings.heals(prepared, reading.code)
            return self._endings.refused(prepared, reading)
        proven = not reading.if_repeated or prepared.claim.last_error == reading.code
        if reading.verdict is Verdict.CONFIG_WRONG and proven:
            lane.pace.answered()
            return await self._blame_connection(prepared, reading.code, reading.code)
        self._slow_down(answer, reading, lane)
        wait = reading.retry_after if proven else max(reading.retry_after or _DOUBT, _DOUBT)
        if prepared.last_code and not prepared.rules.parents_live:
            # It says something of this send, and nothing of the one before (C7).
            return self._endings.left(prepared, wait)
        return self._endings.failed(prepared, reading.code, wait)

    def _slow_down(self, answer: Answered, reading: Reading, lane: Lane) -> None:
        now = self._clock.monotonic()
        if answer.status == 429:
            lane.pace.throttled(now)
        elif answer.status >= 500:
            self._trouble(lane)
        if reading.retry_after is not None:
            until = lane.pace.pause(now + reading.retry_after.total_seconds())
            self._share_pause(lane.host, until, f"http_{answer.status}")

    def _trouble(self, lane: Lane) -> None:
        until = lane.pace.trouble(self._clock.monotonic())
        if until is not None:
            self._share_pause(lane.host, until, "circuit_open")

    def _not_sent(self, prepared: Prepared, outcome: NotSent, lane: Lane) -> Ending:
        """Surely nothing left this time: the token is as it was before."""
        if outcome.reason != "gate":
            self._trouble(lane)
        if prepared.sent:
            return self._endings.left(prepared)
        wait = 0.0 if outcome.reason == "gate" else 5.0
        return self._endings.put_off(prepared.claim, f"not_sent_{outcome.reason}", wait)

    async def _blame_connection(self, prepared: Prepared, code: str, why: str) -> Postponed:
        """The client, its secret or its endpoint is wrong: no grant of it is to blame (I9)."""
        claim = prepared.claim
        if not await self._stop_connection(prepared, why):
            return self._endings.awhile(claim, code)
        episode = f"connection_stopped:{claim.key.connection}:{prepared.connection.fetched_at}"
        notice = Notice(
            tenant=claim.key.tenant, kind="connection_stopped", episode=episode, reason=why
        )
        return self._endings.awhile(claim, code, notice)

    def _observe(self, prepared: Prepared, outcome: Outcome, started: float) -> None:
        try:
            seconds = self._clock.monotonic() - started
            self._counting.of(prepared.claim.provider).exchanged(outcome, seconds)
        except Exception as error:  # the answer is in hand, and matters more
            broke("counting_broke", error)


def _was_hasty(claim: Claim) -> bool:
    """Whether the attempt before this one sent again itself, and told that nothing came: then one
    try at a time is enough for the provider (I12)."""
    return claim.earlier is not None and claim.earlier.uncertain
