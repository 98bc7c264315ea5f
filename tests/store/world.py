"""Two processes whose attempts end in one store; of the product only claims and settling."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select

from tests.clock import FakeClock
from tests.planted import keep_candidate
from worker.domain.attempt import Brought, Refused
from worker.domain.grant import ExpiryKind
from worker.domain.ports import Notice
from worker.domain.secret import Secret
from worker.store import outbox
from worker.store.audit import AuditLog
from worker.store.claims import ClaimsRepository
from worker.store.engine import reading
from worker.store.settling import SettlingRepository

NOW = datetime.now(UTC) - timedelta(seconds=5)


class World:
    """Two processes and a store."""

    def __init__(self, engine, vault):
        self.engine = engine
        self.vault = vault
        self.clock = FakeClock(start=datetime.now(UTC))
        self.claims = {
            process: ClaimsRepository(engine, node="n1", process=process, clock=self.clock)
            for process in ("p1", "p2")
        }
        self.settling = SettlingRepository(
            engine,
            node="n1",
            process="p1",
            clock=self.clock,
            audit=AuditLog("n1"),
            tell=outbox.add,
        )

    def claim(self, each=50):
        return self.claims["p1"].claim_due(
            "google-oauth2", ["acme"], each=each, lease=20.0, since={}
        )

    def take_over(self, by="p2", dead="p1"):
        seen = self.claims[by].unfinished("google-oauth2", ["acme"], dead=(dead,))
        return self.claims[by].take_over(seen, lease=20.0)

    def settle(self, *endings):
        fates = self.settling.settle(endings).fates
        return [fates[one.grant, one.fence] for one in endings]

    def brought(self, claim, rt="r1", at="a1", **changes):
        def seal(text, kind, key):
            return self.vault.seal(
                Secret(text),
                tenant=claim.key.tenant,
                grant=claim.grant,
                generation=claim.next_generation,
                kind=kind,
                key=key,
            )

        values = {
            "grant": claim.grant,
            "tenant": claim.key.tenant,
            "connection": claim.key.connection,
            "provider": claim.provider,
            "user_id": claim.user_id,
            "attempt": claim.attempt,
            "fence": claim.fence,
            "parent_fp": claim.parent_fp,
            "family": claim.family,
            "generation": claim.next_generation,
            "access_token": seal(at, "at", claim.tokens.access_key),
            "refresh_token": seal(rt, "rt", claim.tokens.refresh_key),
            "at_fp": self.vault.fingerprint(Secret(at)),
            "rt_fp": self.vault.fingerprint(Secret(rt)),
            "token_type": "Bearer",
            "scope": None,
            "issued_at": NOW,
            "expiry": ExpiryKind.AT,
            "expires_at": NOW + timedelta(hours=1),
            "refresh_expires_at": None,
            "due_at": NOW + timedelta(minutes=45),
            "not_before": None,
            "logged_in_at": claim.logged_in_at,
        }
        return Brought(**values | changes)

    def refused(self, claim, **changes):
        values = {
            "grant": claim.grant,
            "tenant": claim.key.tenant,
            "connection": claim.key.connection,
            "user_id": claim.user_id,
            "attempt": claim.attempt,
            "fence": claim.fence,
            "code": "invalid_grant",
            "at": NOW,
            "heals": False,
            "final": False,
            "unresolved_until": None,
            "parents_live": False,
            "retry_at": NOW + timedelta(seconds=60),
            "notice": Notice(
                tenant="acme",
                kind="grant_needs_login",
                episode=f"{claim.grant}:0",
                grant=claim.grant,
            ),
        }
        return Refused(**values | changes)

    def count(self, table):
        with reading(self.engine) as db:
            return db.execute(select(func.count()).select_from(table)).scalar_one()

    def login_arrives(self, grant, rt="login"):
        """A pull meets an exchange under way and leaves what it read as a candidate (M7)."""
        keep_candidate(self.engine, self.vault, grant, rt=rt, why="login", now=NOW)
