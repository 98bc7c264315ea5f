"""T1: one grant's life as a model, over the very functions that decide it; the ledger judges.

Hypothesis draws the order of claims, sends, answers, losses, deaths, waits and takeovers.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.simulation.provider import Ledger
from worker.domain.attempt import Fate
from worker.domain.exchange import Rotation
from worker.domain.grant import AttemptId, EarlierAttempt, GrantState
from worker.domain.rotation import may_retake, resend_after, rules_for
from worker.domain.verdict import CONFIRM_AFTER, after_refusal, is_final

T0 = datetime(2026, 1, 1, tzinfo=UTC)
LIFE = 3600.0
GRACES = {Rotation.G: (30, 600)}  # seconds
KINDS = [(rotation, grace) for rotation in Rotation for grace in GRACES.get(rotation, (0,))]


@dataclass
class Attempt:
    """One attempt, as its own process knows it."""

    token: str
    began: float
    deadline: float  # of the lease
    here: bool  # on the host that looks at it
    first: float = 0.0  # when the first attempt at the token began
    sends: int = 0
    sent_at: float | None = None
    answer: tuple[int, dict[str, Any]] | None = None  # on its way, or in the process's memory
    dead: bool = False
    told: bool = False  # uncertain


class GrantLife(RuleBasedStateMachine):
    """At most one attempt holds the claim; those before it are over, or never were heard of."""

    @initialize(
        kind=st.sampled_from(KINDS),
        left=st.sampled_from([0.0, 120.0, 900.0]),
    )
    def a_grant(self, kind, left):
        rotation, grace = kind
        self.rules = rules_for(rotation, grace_seconds=grace, rotated_before=False)
        self.ledger = Ledger(rotation, grace=grace, life=LIFE)
        self.current = self.ledger.login("r0")
        self.durable = {self.current}
        self.now, self.access_ends = 0.0, left
        self.attempt: Attempt | None = None
        self.state, self.suspect_since, self.pulled_at = GrantState.ACTIVE, None, None

    # ------------------------------------------------------------ what a worker does

    @precondition(lambda self: self.attempt is None and self.state in _OPEN)
    @rule(here=st.booleans())
    def claim(self, here):
        self.attempt = self._claimed(self.current, here)

    @precondition(lambda self: self._may_send())
    @rule(reaches=st.booleans())
    def send(self, reaches):
        self._send(reaches)

    @precondition(lambda self: self._live() and self.attempt.answer is not None)
    @rule()
    def the_answer_comes(self):
        status, body = self.attempt.answer
        attempt, self.attempt = self.attempt, None
        if status == 200:
            self.current = str(body["refresh_token"])
            self.durable.add(self.current)
            self.access_ends = self.now + LIFE
            self.state, self.suspect_since = GrantState.ACTIVE, None
            return
        self._refused(attempt)

    @precondition(lambda self: self._live() and self.attempt.sent_at is not None)
    @rule(again=st.booleans(), reaches=st.booleans())
    def the_answer_is_lost(self, again, reaches):
        """The connection broke: the process holds nothing, and may ask again as its class says."""
        attempt = self.attempt
        attempt.answer = None
        age = self.now - attempt.began
        wait = resend_after(self.rules, sent=attempt.sends, age=age)
        if again and wait is not None:
            self._pass(wait)
            attempt.deadline = self.now + self.rules.lease  # extended first
            self._send(reaches)
        else:
            attempt.told = True

    @precondition(lambda self: self._live())
    @rule()
    def the_process_dies(self):
        self.attempt.dead, self.attempt.answer = True, None

    @precondition(lambda self: self.attempt is not None and self._ripe())
    @rule(here=st.booleans())
    def another_takes_over(self, here):
        assert self.attempt.answer is None, "somebody alive still holds what he was answered"
        taken = self._claimed(self.current, here)
        taken.first = self.attempt.first
        self.attempt = taken

    # ------------------------------------------------------------ what else happens

    @rule(seconds=st.sampled_from([5.0, 12.0, 31.0, 61.0, 700.0]))
    def time_passes(self, seconds):
        self._pass(seconds)

    @precondition(lambda self: self.attempt is not None and self.attempt.deadline > self.now)
    @rule()
    def the_lease_ends(self):
        self._pass(self.attempt.deadline - self.now)

    @precondition(lambda self: self.state is GrantState.SUSPECT)
    @rule()
    def auth0_is_read_again(self):
        self.pulled_at = self._at(self.now)

    @precondition(lambda self: self.attempt is None)
    @rule()
    def the_user_withdraws(self):
        self.ledger.revoke(self.current)

    @precondition(lambda self: self.state is GrantState.NEEDS_REAUTH and self.attempt is None)
    @rule()
    def the_user_logs_in(self):
        self.current = self.ledger.login(f"login-{uuid4().hex}")
        self.durable.add(self.current)
        self.state, self.suspect_since = GrantState.ACTIVE, None

    # ------------------------------------------------------------ what must hold

    @invariant()
    def no_verdict_over_a_token_we_hold_that_lives(self):
        if getattr(self, "state", None) is GrantState.NEEDS_REAUTH:
            family = self.ledger.families[self.current]
            assert family.revoked or family.newest not in self.durable

    def _send(self, reaches: bool) -> None:
        attempt = self.attempt
        family = self.ledger.families[attempt.token]
        rotated_at = family.rotated_at.get(attempt.token)
        if self.rules.rotation in (Rotation.G, Rotation.S, Rotation.F) and rotated_at is not None:
            held = family.successor[attempt.token] in self.durable
            assert not held, "sent although its successor is held (I4)"
        attempt.sends, attempt.sent_at = attempt.sends + 1, self.now
        attempt.answer = self.ledger.refresh(attempt.token, self.now) if reaches else None

    def _refused(self, attempt: Attempt) -> None:
        claim: Any = SimpleNamespace(
            state=self.state, suspect_since=self.suspect_since, pulled_at=self.pulled_at
        )
        final = is_final(claim, now=self._at(self.now), confirm_after=CONFIRM_AFTER)
        fate = after_refusal(final=final, unresolved=False, candidate_waits=False, braked=False)
        if fate is Fate.NEEDS_REAUTH:
            assert self.suspect_since is not None
            assert self._at(self.now) - self.suspect_since >= CONFIRM_AFTER, "told too soon"
            assert self.pulled_at is not None
            assert self.pulled_at >= self.suspect_since, "Auth0 was not asked"
            self.state = GrantState.NEEDS_REAUTH
        else:
            self.state = GrantState.SUSPECT
            self.suspect_since = self.suspect_since or self._at(self.now)

    def _claimed(self, token: str, here: bool) -> Attempt:
        now = self.now
        return Attempt(
            token=token, began=now, deadline=now + self.rules.lease, here=here, first=now
        )

    def _live(self) -> bool:
        return self.attempt is not None and not self.attempt.dead and not self.attempt.told

    def _may_send(self) -> bool:
        """The gate (I6)."""
        unsent = self._live() and self.attempt.sent_at is None
        return unsent and self.now < self.attempt.deadline - self.rules.read_timeout

    def _ripe(self) -> bool:
        attempt = self.attempt
        earlier = EarlierAttempt(
            attempt=AttemptId(uuid4()),
            node="n",
            process="p",
            began_at=self._at(attempt.began),
            token_since=self._at(attempt.first),
            uncertain=attempt.told,
        )
        return may_retake(
            self.rules,
            earlier,
            lease_until=self._at(attempt.deadline),
            gone=attempt.dead and attempt.here,
            alive=not attempt.dead and attempt.here,
            access_expires_at=self._at(self.access_ends),
            now=self._at(self.now),
        )

    def _pass(self, seconds: float) -> None:
        """Nobody waits for an answer longer than his read timeout."""
        self.now += seconds
        attempt = self.attempt
        if attempt is None or attempt.sent_at is None or not self._live():
            return
        if self.now >= attempt.sent_at + self.rules.read_timeout:
            attempt.answer, attempt.told = None, True

    def _at(self, seconds: float) -> datetime:
        return T0 + timedelta(seconds=seconds)


_OPEN = (GrantState.ACTIVE, GrantState.SUSPECT)
GrantLife.TestCase.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)
TestTheLifeOfAGrant = GrantLife.TestCase
