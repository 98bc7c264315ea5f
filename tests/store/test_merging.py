"""Auth0's copy meets the store: rules M1 to M9 as rows, on both databases."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, Engine, func, select, update

from tests.clock import T0, as_told
from worker.domain.exchange import Lifetimes
from worker.domain.grant import ExpiryKind, GrantId, GrantKey, GrantPart, GrantState
from worker.domain.merge import SECOND_LOOK, Arrival, Kind, Why
from worker.domain.ports import AuditRecord
from worker.domain.secret import Secret
from worker.store.engine import reading, writing
from worker.store.merge_view import View
from worker.store.merging import Merged, MergeRepository
from worker.store.pulls import Begun, PullRepository, user_subject
from worker.store.quarantine import QuarantineRepository
from worker.store.store_time import StoreTime, store_time
from worker.store.tables import CandidateRow, GrantRow, OutboxRow, SeenRefreshTokenRow

HOUR = timedelta(hours=1)
NO_LIMITS = Lifetimes(
    access=None, refresh=None, refresh_idle=None, margin=None, not_before=None, keepalive=None
)
ROSA = "google-oauth2|1"


class AuditList:
    """The audit, kept in memory."""

    def __init__(self) -> None:
        self.records: list[AuditRecord] = []

    def append(self, connection: Connection, records: Any) -> None:
        self.records += records


def copy(
    rt: str | None = "rt-0",
    at: str | None = "at-0",
    *,
    identity: str = "1",
    connection: str = "google-oauth2",
    user_id: str | None = ROSA,
    login: str | None = "1:first",
    issued_at: datetime | None = T0,
) -> Arrival:
    return Arrival(
        key=GrantKey(tenant="acme", connection=connection, identity_user_id=identity),
        user_id=user_id,
        strategy="google-oauth2",
        provider="google-oauth2",
        spends="rt",
        not_renewable=None,
        lifetimes=NO_LIMITS,
        access_token=Secret(at) if at else None,
        refresh_token=Secret(rt) if rt else None,
        scope=None,
        issued_at=issued_at,
        expiry=ExpiryKind.AT,
        expires_at=issued_at + HOUR if issued_at else T0,  # as the catalogue assumes
        login=login,
    )


@dataclass
class Tenant:
    """The store under test, and an Auth0 whose copies it is handed."""

    engine: Engine
    vault: Any
    audit: AuditList = field(default_factory=AuditList)
    now: datetime = T0
    time: StoreTime = as_told

    def __post_init__(self) -> None:
        self.pulls = PullRepository(self.engine, time=self.time)
        self.merges = MergeRepository(
            self.engine, self.vault, self.audit, actor="worker:test", time=self.time
        )

    def begin(self, user_id: str = ROSA) -> Begun:
        return self.pulls.begin("acme", user_subject(user_id), now=self.now)

    def merge(self, begun: Begun, *copies: Arrival, user_id: str | None = ROSA) -> Merged:
        return self.merges.merge(begun, copies, user_id=user_id, now=self.now)

    def pull(self, *copies: Arrival, user_id: str = ROSA) -> Merged:
        return self.merge(self.begin(user_id), *copies, user_id=user_id)

    def grant(self, identity: str = "1", connection: str = "google-oauth2") -> Any:
        asked = select(GrantRow.__table__).where(
            GrantRow.identity_user_id == identity, GrantRow.connection == connection
        )
        with reading(self.engine) as database:
            return database.execute(asked).one()

    def change(self, *of: Any, **values: Any) -> None:
        with writing(self.engine) as database:
            database.execute(update(GrantRow).where(*of).values(**values))

    def notices(self) -> list[str]:
        with reading(self.engine) as database:
            return list(database.execute(select(OutboxRow.kind)).scalars())

    def candidates(self) -> list[Any]:
        with reading(self.engine) as database:
            asked = select(CandidateRow.__table__).order_by(CandidateRow.id)
            return list(database.execute(asked))

    def opened(self, row: Any, kind: str, grant: Any = None) -> str | None:
        """What a renewer (or the API) reads out of a row."""
        grant = grant or row
        sealed = row.access_token if kind == "at" else row.refresh_token
        if sealed is None:
            return None
        key = grant.access_key if kind == "at" else grant.refresh_key
        secret = self.vault.open(
            sealed,
            tenant="acme",
            grant=GrantId(grant.id),
            generation=row.generation,
            kind=kind,
            key=key,
        )
        return str(secret.text())

    @property
    def tokens(self) -> tuple[str | None, str | None]:
        row = self.grant()
        return self.opened(row, "rt"), self.opened(row, "at")


@pytest.fixture
def tenant(engine, vault) -> Tenant:
    return Tenant(engine, vault)


def kinds(merged: Merged) -> list[Kind]:
    return [grant.decision.kind for grant in merged.grants]


def test_a_first_login_makes_a_grant_that_falls_due(tenant):
    merged = tenant.pull(copy())
    row = tenant.grant()
    assert kinds(merged) == [Kind.CREATE]
    assert tenant.tokens == ("rt-0", "at-0")
    assert (row.state, row.renewable, row.family, row.generation) == ("active", True, 0, 0)
    assert T0 + HOUR / 2 <= row.due_at < T0 + HOUR
    assert [record.verb for record in tenant.audit.records] == ["grant_created"]


def test_the_same_copy_again_changes_nothing(tenant):
    tenant.pull(copy())
    before = tenant.tokens
    assert kinds(tenant.pull(copy())) == [Kind.IGNORE]
    assert tenant.tokens == before
    assert len(tenant.audit.records) == 1


def test_a_login_without_a_refresh_token_cannot_be_renewed_and_says_why(tenant):
    tenant.pull(copy(rt=None))
    row = tenant.grant()
    assert (row.renewable, row.reason, row.due_at) == (False, "no_refresh_token", None)


def test_without_evidence_of_the_login_time_a_grant_is_due_at_once(tenant):
    tenant.pull(copy(issued_at=None))
    assert tenant.grant().due_at == T0


def test_a_new_login_is_current_and_the_old_family_a_candidate(tenant):
    tenant.pull(copy())
    tenant.pull(copy("rt-1", "at-1", login="2:second"))
    row, (old,) = tenant.grant(), tenant.candidates()
    assert tenant.tokens == ("rt-1", "at-1")
    assert (row.family, row.generation, row.last_generation) == (1, 1, 1)
    assert (old.why, tenant.opened(old, "rt", row)) == ("superseded_family", "rt-0")


def test_auth0s_stale_copy_never_comes_back_over_a_renewed_one(tenant, vault):
    tenant.pull(copy())
    renewed = vault.fingerprint(Secret("renewed"))
    row = tenant.grant()
    with writing(tenant.engine) as database:
        seen = SeenRefreshTokenRow(grant_id=row.id, fp=renewed, generation=1, seen_at=T0)
        database.execute(SeenRefreshTokenRow.__table__.insert().values(_columns(seen)))
    tenant.change(rt_fp=renewed, at_fp=b"renewed-at", generation=1)
    assert kinds(tenant.pull(copy())) == [Kind.IGNORE]
    assert tenant.grant().rt_fp == renewed


def test_a_refresh_token_missing_upstream_never_deletes_ours(tenant):
    tenant.pull(copy())
    merged = tenant.pull(copy(rt=None, at=None))
    assert tenant.tokens == ("rt-0", "at-0")
    assert merged.grants[0].had_tokens
    assert merged.grants[0].decision.why is Why.NO_TOKENS


def test_a_pull_overtaken_by_a_later_one_merges_nothing(tenant):
    early = tenant.begin()
    late = tenant.begin()
    tenant.merge(late, copy("rt-1", "at-1", login="2:second"))
    merged = tenant.merge(early, copy())
    assert merged.overtaken
    assert tenant.tokens == ("rt-1", "at-1")


def test_an_early_pull_does_not_even_merge_before_the_later_one(tenant):
    """It cannot know that the later one has not read something newer."""
    early = tenant.begin()
    tenant.begin()
    assert tenant.merge(early, copy()).overtaken


def test_two_users_pulls_of_one_identity_keep_their_order(tenant):
    """While accounts are linked, the identity can be read through either user."""
    through_old_user = tenant.begin("google-oauth2|1")
    through_new_user = tenant.begin("auth0|2")
    newer = copy("rt-1", "at-1", login="9:x", user_id="auth0|2")
    tenant.merge(through_new_user, newer, user_id="auth0|2")
    merged = tenant.merge(through_old_user, copy())
    assert merged.grants[0].decision.why is Why.OVERTAKEN
    assert tenant.tokens == ("rt-1", "at-1")


def in_flight(tenant: Tenant, until: datetime) -> None:
    tenant.change(attempt=uuid4(), lease_until=until, fence=7, claimed_at=T0, last_generation=1)


def test_a_login_during_an_exchange_waits_as_a_candidate(tenant):
    tenant.pull(copy())
    in_flight(tenant, T0 + HOUR)
    merged = tenant.pull(copy("rt-1", "at-1", login="2:second"))
    row, (waiting,) = tenant.grant(), tenant.candidates()
    assert kinds(merged) == [Kind.KEEP_CANDIDATE]
    assert tenant.tokens == ("rt-0", "at-0")
    assert (waiting.why, waiting.family, waiting.fence) == ("login", 1, None)
    assert (waiting.generation, row.last_generation) == (2, 2)  # 1 is the exchange's
    assert tenant.opened(waiting, "rt", row) == "rt-1"


def test_and_takes_over_by_the_next_pull_if_the_exchange_never_ends(tenant):
    tenant.pull(copy())
    in_flight(tenant, T0 + HOUR)
    tenant.pull(copy("rt-1", "at-1", login="2:second"))
    tenant.now = T0 + 2 * HOUR
    assert kinds(tenant.pull(copy("rt-1", "at-1", login="2:second"))) == [Kind.PROMOTE]
    assert tenant.tokens == ("rt-1", "at-1")
    assert [candidate.why for candidate in tenant.candidates()] == ["superseded_family"]


def test_but_not_if_another_grant_held_its_refresh_token_and_has_spent_it_since(tenant):
    """C18: no index tells by then that it was ever that one's."""
    tenant.pull(copy("rt-1", "at-1", identity="2", connection="google-2"))
    tenant.pull(copy())
    holder = tenant.grant("2", "google-2").id
    in_flight(tenant, T0 + HOUR)
    tenant.pull(copy("rt-1", "at-1", login="2:second"))
    tenant.change(GrantRow.id == holder, rt_fp=b"spent-and-followed-by-another")
    tenant.now = T0 + 2 * HOUR
    assert kinds(tenant.pull(copy("rt-1", "at-1", login="2:second"))) == [Kind.PROMOTE]
    row = tenant.grant()
    assert (row.alias_of, row.rt_fp, row.due_at) == (holder, None, None)


def test_a_login_takes_the_fence_from_an_attempt_whose_lease_has_ended(tenant):
    tenant.pull(copy())
    in_flight(tenant, T0 - HOUR)
    tenant.pull(copy("rt-1", "at-1", login="2:second"))
    row = tenant.grant()
    assert (row.fence, row.attempt, row.generation) == (8, None, 2)


def test_needs_reauth_ends_with_a_login_and_with_nothing_less(tenant):
    tenant.pull(copy())
    tenant.change(state="needs_reauth", expires_at=T0 - HOUR, due_at=None)
    tenant.pull(copy("rt-0", "at-1", login="2:second"))
    assert tenant.grant().state == GrantState.NEEDS_REAUTH
    tenant.pull(copy("rt-1", "at-2", login="3:third"))
    row = tenant.grant()
    assert row.state == GrantState.ACTIVE
    assert row.due_at is not None
    assert tenant.notices() == ["grant_recovered"]
    tenant.pull(copy("rt-2", "at-3", login="4:fourth"))
    assert tenant.notices() == ["grant_recovered"], "an ordinary login is nobody's news"


def test_one_with_fewer_scopes_is_taken_when_ours_has_ended(tenant):
    """M5: passed over while ours lives, and news still afterwards."""
    tenant.pull(replace(copy(None, "at-0"), spends="at", scope="email posts"))
    fewer = replace(
        copy(None, "at-1", login="2:second", issued_at=T0 + HOUR / 2), spends="at", scope="email"
    )
    later = replace(fewer, expires_at=T0 + 24 * HOUR)
    tenant.now = T0 + HOUR / 2
    assert kinds(tenant.pull(later)) == [Kind.IGNORE]
    tenant.now = T0 + 3 * HOUR
    assert kinds(tenant.pull(later)) == [Kind.TAKE_ACCESS_TOKEN]
    assert tenant.tokens == (None, "at-1")


def test_a_lone_access_token_replaces_an_expired_one_and_opens(tenant):
    tenant.pull(copy())
    tenant.now = T0 + 2 * HOUR
    tenant.pull(copy(None, "at-1", login="2:second", issued_at=tenant.now))
    assert tenant.tokens == ("rt-0", "at-1")
    assert tenant.grant().due_at > tenant.now


def test_another_spender_is_found_at_the_second_look_and_mirrored(tenant):
    tenant.pull(copy())
    stranger = copy("stolen-1", "at-1")  # a new refresh token, and nobody has logged in
    assert kinds(tenant.pull(stranger)) == [Kind.KEEP_CANDIDATE]
    assert kinds(tenant.pull(stranger)) == [Kind.LOOK_AGAIN]
    tenant.now += SECOND_LOOK
    assert kinds(tenant.pull(stranger)) == [Kind.QUARANTINE]
    row = tenant.grant()
    assert (row.state, row.reason, row.due_at) == ("quarantined", "shared_spender", None)
    tenant.pull(copy("stolen-2", "at-2"))
    row = tenant.grant()
    assert (row.state, row.reason, row.due_at) == ("quarantined", "shared_spender", None)
    assert tenant.tokens == ("stolen-2", "at-2")


def test_a_puller_whose_clock_is_fast_finds_no_second_look_due_at_once(engine, vault):
    slow, fast = (
        Tenant(engine, vault, now=T0 + apart, time=lambda *_: T0)
        for apart in (timedelta(0), timedelta(minutes=5))
    )
    slow.pull(copy())
    assert kinds(slow.pull(copy("rt-1", "at-1"))) == [Kind.KEEP_CANDIDATE]
    assert kinds(fast.pull(copy("rt-1", "at-1"))) == [Kind.LOOK_AGAIN]


def test_nor_an_exchange_over_that_is_under_way(engine, vault):
    fast = Tenant(engine, vault, now=T0 + timedelta(minutes=5), time=lambda *_: T0)
    fast.pull(copy())
    in_flight(fast, T0 + SECOND_LOOK)
    assert kinds(fast.pull(copy("rt-1", "at-1", login="2:second"))) == [Kind.KEEP_CANDIDATE]


def test_nor_is_a_user_gone_by_two_reads_a_moment_apart(engine, vault):
    """`Puller` asks how long ago, by `Begun.at`, the read before this one found nobody."""
    slow, fast = (
        Tenant(engine, vault, now=T0 + apart, time=lambda *_: T0)
        for apart in (timedelta(0), timedelta(minutes=5))
    )
    slow.pulls.missed(slow.begin())
    second = fast.begin()
    assert (second.at, second.last_at) == (T0, T0)


def test_the_stores_clock_is_that_of_postgresql(engine):
    with writing(engine) as connection:
        told = store_time(connection, T0)
        at = connection.execute(select(func.now())).scalar_one()
    assert told == (at if engine.dialect.name == "postgresql" else T0)


def test_a_login_counted_late_accuses_nobody(tenant):
    tenant.pull(copy())
    tenant.pull(copy("rt-1", "at-1"))
    assert kinds(tenant.pull(copy("rt-1", "at-1", login="2:second"))) == [Kind.PROMOTE]
    assert tenant.grant().state == GrantState.ACTIVE


def test_a_connection_that_was_mended_mends_its_grants_without_a_login(tenant):
    """The client's secret came to light, an entry was written, an operator said it lives."""
    refused = replace(copy(), not_renewable="The client secret is not known.", provider="oauth2")
    tenant.pull(refused)
    assert (tenant.grant().renewable, tenant.grant().due_at) == (False, None)
    tenant.now += timedelta(minutes=5)
    tenant.pull(replace(copy(), provider="tracker"))
    row = tenant.grant()
    assert (row.provider, row.renewable, row.reason) == ("tracker", True, None)
    assert tenant.now <= row.due_at < row.expires_at
    assert (row.generation, tenant.tokens) == (0, ("rt-0", "at-0"))
    assert tenant.audit.records[-1].verb == "reclassified"
    records = len(tenant.audit.records)
    tenant.pull(replace(copy(), provider="tracker"))
    assert len(tenant.audit.records) == records


@pytest.mark.parametrize(
    ("columns", "mended"),
    [
        ({"renewable": False, "reason": "not_renewable"}, True),
        ({"renewable": False, "reason": "other_account"}, False),
        ({"renewable": False, "reason": "user_inactive"}, False),
        ({"renewable": False, "reason": "not_renewable", "refresh_token": None}, False),
        ({"renewable": False, "reason": "not_renewable", "state": "quarantined"}, False),
        (
            {
                "renewable": False,
                "reason": "not_renewable",
                "attempt": UUID(int=7),
                "lease_until": T0,
            },
            False,
        ),
        ({"renewable": False, "reason": "not_renewable", "alias_of": UUID(int=7)}, False),
        ({"renewable": True, "reason": "invalid_grant", "state": "needs_reauth"}, False),
    ],
    ids=str,
)
def test_only_what_waited_for_the_connection_is_mended_by_a_read(tenant, columns, mended):
    tenant.pull(copy())
    tenant.change(due_at=None, **columns)
    tenant.pull(copy())
    row = tenant.grant()
    assert (row.due_at is not None) == mended
    assert (row.renewable, row.reason) == (
        (True, None) if mended else (columns["renewable"], columns["reason"])
    )


def test_what_auth0_has_left_of_a_copy_is_no_sign_of_what_we_hold(tenant):
    """M4: without its refresh token a GitHub App's grant looks like an OAuth App's."""
    tenant.pull(replace(copy(), provider="github-app"))
    tenant.pull(replace(copy(rt=None), provider="github", spends=""))
    assert tenant.grant().provider == "github-app"


def test_linking_moves_the_pointer_and_not_the_tokens(tenant):
    tenant.pull(copy())
    tenant.pull(copy(user_id="auth0|2", login="auth0|2:1"), user_id="auth0|2")
    assert tenant.grant().user_id == "auth0|2"
    assert tenant.tokens == ("rt-0", "at-0")
    assert tenant.audit.records[-1].verb == "user_moved"


def test_an_unlinked_identity_leaves_the_user_at_once(tenant):
    second = copy("rt-b", "at-b", identity="77")
    tenant.pull(copy(), second)
    merged = tenant.pull(copy())
    assert merged.detached == ("google-oauth2|77",)
    assert tenant.grant("77").user_id == "google-oauth2|77"


def test_an_accounts_bot_leaves_with_it_and_not_without_it(tenant):
    """Its pair came with the person's login: a pull without it says nothing, an unlink all."""
    person = copy("rt-b", "at-b", identity="77")
    bot = replace(copy("rt-c", "at-c", identity="77"), key=replace(person.key, part=GrantPart.BOT))
    tenant.pull(copy(), person, bot)
    assert tenant.pull(copy(), person).detached == ()
    merged = tenant.pull(copy())
    assert merged.detached == ("google-oauth2|77",)
    asked = select(GrantRow.user_id).where(GrantRow.identity_user_id == "77")
    with reading(tenant.engine) as database:
        assert set(database.execute(asked).scalars()) == {"google-oauth2|77"}


def test_one_refresh_token_is_spent_by_one_grant_only(tenant):
    tenant.pull(copy())
    tenant.pull(copy(identity="77", user_id="auth0|2"), user_id="auth0|2")
    twin, first = tenant.grant("77"), tenant.grant("1")
    assert (twin.alias_of, twin.rt_fp, twin.refresh_token) == (first.id, None, None)
    assert twin.due_at is None


def test_what_is_erased_is_not_brought_back(tenant):
    tenant.pull(copy())
    tenant.change(state="erased", tombstoned_at=T0, access_token=None, refresh_token=None)
    tenant.pull(copy("rt-1", "at-1", login="2:second"))
    assert (tenant.grant().state, tenant.grant().refresh_token) == ("erased", None)


def test_a_login_during_a_revocation_is_left_to_the_revoker(tenant):
    tenant.pull(copy())
    tenant.change(state="tombstoned", tombstoned_at=T0)
    tenant.pull(copy("rt-1", "at-1", login="2:second"))
    row, (late,) = tenant.grant(), tenant.candidates()
    assert (row.state, late.why, tenant.opened(late, "rt", row)) == (
        "tombstoned",
        "tombstoned",
        "rt-1",
    )


def test_a_user_who_comes_back_after_his_erasure_gets_a_new_grant(tenant):
    tenant.pull(copy())
    erased = tenant.grant().id
    gone = dict.fromkeys(("access_token", "refresh_token", "access_key", "refresh_key", "rt_fp"))
    tenant.change(state="erased", tombstoned_at=T0, **gone)
    tenant.now = T0 + HOUR
    tenant.pull(copy())  # the copy of before, should it turn up
    assert tenant.grant().state == "erased"
    tenant.pull(copy("rt-1", "at-1", login="2:second", issued_at=tenant.now))
    assert tenant.grant().id != erased
    assert tenant.tokens == ("rt-1", "at-1")


def test_connection_and_user_of_one_name_are_two_grants(tenant):
    admin = replace(copy(), key=replace(copy().key, part=GrantPart.ADMIN), user_id=None)
    begun = tenant.pulls.begin("acme", "connection:google-oauth2", now=T0)
    tenant.merge(begun, replace(admin, refresh_token=Secret("admin")), user_id=None)
    tenant.pull(copy())
    with reading(tenant.engine) as database:
        parts = database.execute(select(GrantRow.part).order_by(GrantRow.part)).scalars().all()
    assert parts == ["admin", "user"]


def test_a_missing_user_is_counted_and_found_again(tenant):
    first = tenant.begin()
    assert tenant.pulls.missed(first) == 1
    second = tenant.begin()
    assert (second.missing, tenant.pulls.missed(second)) == (1, 2)
    tenant.pull(copy())
    assert tenant.begin().missing == 0


def test_a_miss_read_by_an_overtaken_pull_does_not_count(tenant):
    early = tenant.begin()
    tenant.begin()
    assert tenant.pulls.missed(early) == 0


def _columns(row: Any) -> dict[str, Any]:
    return {column.name: getattr(row, column.name) for column in row.__table__.columns}


def test_an_operator_ends_a_quarantine(tenant):
    tenant.pull(copy())
    tenant.change(state="quarantined", reason="shared_spender", due_at=None)
    quarantine = QuarantineRepository(tenant.engine, tenant.audit)
    grant = tenant.grant().id
    assert quarantine.release(grant, actor="cli:ops", now=T0)
    row = tenant.grant()
    assert (row.state, row.reason, row.due_at) == ("active", None, T0)
    assert tenant.audit.records[-1].verb == "released"
    assert not quarantine.release(grant, actor="cli:ops", now=T0)


def test_two_pulls_that_make_the_same_grant_at_once_make_one(tenant, monkeypatch):
    """The second finds no row, and is refused by the unique key: it looks again."""
    tenant.pull(copy())
    looks = []
    really = View.locked

    def blind_at_first(view: View, key: GrantKey) -> Any:
        looks.append(key)
        return None if len(looks) == 1 else really(view, key)

    monkeypatch.setattr(View, "locked", blind_at_first)
    assert kinds(tenant.pull(copy())) == [Kind.IGNORE]
    assert len(looks) == 2
    assert tenant.tokens == ("rt-0", "at-0")
