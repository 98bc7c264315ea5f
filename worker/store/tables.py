"""The tables, one class each. Every change is an Alembic migration; a test compares the two."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import (
    JSON,
    BigInteger,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import Uuid

from worker.store.types import Instant

_BIG_ID = BigInteger().with_variant(Integer, "sqlite")  # SQLite autoincrements INTEGER only


class Base(DeclarativeBase):
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: Instant,
        UUID: Uuid,
        bytes: LargeBinary,
        str: Text,
        dict[str, Any]: JSON,
        int: BigInteger,
    }


class ConnectionRow(Base):
    """One Auth0 connection as last read; secrets sealed, never the raw `options`."""

    __tablename__ = "connections"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    connection_id: Mapped[str | None] = mapped_column(index=True)  # `con_…`
    strategy: Mapped[str]
    client_id: Mapped[str | None]
    options: Mapped[dict[str, Any]]  # what renewing needs of `options`, no secret in it
    secrets: Mapped[bytes | None]  # sealed JSON: client_secret, custom header values
    options_seen: Mapped[bool]  # False: the reader lacked `read:connections_options`
    fetched_at: Mapped[datetime]
    approved_host: Mapped[str | None]  # token host pinned at first use (I13)
    stopped: Mapped[str | None]  # why nothing of this connection is renewed; NULL: open
    stopped_at: Mapped[datetime | None]
    brake_until: Mapped[datetime | None]  # verdicts held after a mass of refusals (I8)
    problems: Mapped[str | None]  # codes, space separated: what an admin has to mend at Auth0
    synced_at: Mapped[datetime | None]  # of the directory sync last heeded, or a consent since
    # `domain.learned`: refused (grant → age in s), rotates and keeps (entry → since when)
    learned: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default=text("'{}'"))
    deleted_at: Mapped[datetime | None]


class GrantRow(Base):
    """One identity's consent at one provider, its current generation, schedule and claim.

    The claim's columns stand in no index, so that claiming is a heap-only update; measured, this
    and the fillfactor bring the WAL of a claim to a third. On PostgreSQL the columns that renewals
    change are the last of the row (migration 0005): of an update it logs what lies between the
    first and the last byte that changed.
    """

    __tablename__ = "grants"
    __table_args__ = (
        UniqueConstraint("tenant", "connection", "identity_user_id", "part", name="uq_grants_key"),
        Index(
            "ix_grants_due",  # tenant before time: one tenant's backlog hides no other's
            "provider",
            "tenant",
            "due_at",
            postgresql_where=text("due_at IS NOT NULL"),
            sqlite_where=text("due_at IS NOT NULL"),
        ),
        # I1: one refresh token, one active grant; a second holder becomes an alias without it
        Index(
            "uq_grants_rt_fp",
            "rt_fp",
            unique=True,
            postgresql_where=text("rt_fp IS NOT NULL"),
            sqlite_where=text("rt_fp IS NOT NULL"),
        ),
        Index(
            "ix_grants_suspect",  # small: who was refused lately, for the brake (I8)
            "tenant",
            "connection",
            "suspect_since",
            postgresql_where=text("suspect_since IS NOT NULL"),
            sqlite_where=text("suspect_since IS NOT NULL"),
        ),
        Index(
            "ix_grants_tombstoned",  # small: what waits to be revoked upstream
            "tombstoned_at",
            postgresql_where=text("state IN ('tombstoned', 'revoking')"),
            sqlite_where=text("state IN ('tombstoned', 'revoking')"),
        ),
        Index(
            "ix_grants_withheld",  # small: whose grants wait to be looked at again
            "tenant",
            "withheld_at",
            postgresql_where=text("withheld IS NOT NULL"),
            sqlite_where=text("withheld IS NOT NULL"),
        ),
        Index(
            "ix_grants_alias",  # small: who follows a grant that ends (C18)
            "alias_of",
            postgresql_where=text("alias_of IS NOT NULL"),
            sqlite_where=text("alias_of IS NOT NULL"),
        ),
        Index("ix_grants_user", "tenant", "user_id"),
        {"postgresql_with": {"fillfactor": "70"}},
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    connection: Mapped[str]  # name
    identity_user_id: Mapped[str]
    part: Mapped[str] = mapped_column(String(8))  # GrantPart
    user_id: Mapped[str | None]  # Auth0's; moves when accounts are linked (M9)
    strategy: Mapped[str]
    provider: Mapped[str]  # catalogue entry; decides the queue and the task name

    state: Mapped[str] = mapped_column(String(16))  # GrantState
    reason: Mapped[str | None]  # a code: why it is not active, or cannot be renewed
    renewable: Mapped[bool]  # False: nothing to renew with; `reason` says why
    alias_of: Mapped[UUID | None]  # holds the very refresh token of that grant (C18)

    generation: Mapped[int]  # link in the chain, counts over all families; starts at 0
    # highest number ever given to tokens of this grant: current, candidate, or awaited by a claim.
    # Whoever seals new tokens takes greatest(last_generation, generation) + 1 and stores it here.
    last_generation: Mapped[int] = mapped_column(default=0, server_default=text("0"))
    family: Mapped[int]  # counts logins that brought a never-seen refresh token
    access_token: Mapped[bytes | None]  # sealed
    refresh_token: Mapped[bytes | None]  # sealed
    access_key: Mapped[bytes | None]  # data key, wrapped; NULL once shredded
    refresh_key: Mapped[bytes | None]
    at_fp: Mapped[bytes | None]
    rt_fp: Mapped[bytes | None]
    token_type: Mapped[str]
    scope: Mapped[str | None]
    issued_at: Mapped[datetime]
    expiry: Mapped[str] = mapped_column(String(8))  # ExpiryKind
    expires_at: Mapped[datetime | None]
    refresh_expires_at: Mapped[datetime | None]
    renewed_at: Mapped[datetime | None]
    logged_in_at: Mapped[datetime]  # when the family began; absolute ends count from here
    not_before: Mapped[datetime | None]
    rotated_before: Mapped[bool]

    due_at: Mapped[datetime | None]  # NULL: nothing to do until something changes
    failures: Mapped[int]  # transient ones in a row
    last_error: Mapped[str | None]  # a code
    suspect_since: Mapped[datetime | None]
    warned_at: Mapped[datetime | None]  # of an end that renewal cannot move

    fence: Mapped[int]
    attempt: Mapped[UUID | None]  # NULL: free
    claim_node: Mapped[str | None]
    claim_process: Mapped[str | None]
    claim_fp: Mapped[bytes | None]
    claimed_at: Mapped[datetime | None]
    first_claimed_at: Mapped[datetime | None]  # of a token that was taken over; else `claimed_at`
    lease_until: Mapped[datetime | None]
    uncertain: Mapped[bool]  # the attempt may have sent and does not know how it ended
    # of the refresh token at which an attempt was taken over: `first_claimed_at` is of its first
    # one, whoever claims it now, and `unproven_until` of the last one taken over without proof
    retaken_fp: Mapped[bytes | None]
    unproven_until: Mapped[datetime | None]  # it may bring the successor of that token until then

    pull_fence: Mapped[int]
    upstream_rt_fp: Mapped[bytes | None]  # of Auth0's copy, as last seen
    upstream_at_fp: Mapped[bytes | None]
    upstream_login: Mapped[str | None]  # user id, logins and last login, as last seen (M8)
    pulled_at: Mapped[datetime | None]  # Auth0's copy re-read on suspicion, with nothing left open
    created_at: Mapped[datetime]
    tombstoned_at: Mapped[datetime | None]
    # `domain.held.Withheld`: kept and renewed, but handed to nobody; NULL: handed out
    withheld: Mapped[str | None] = mapped_column(String(16))
    withheld_at: Mapped[datetime | None]
    api_base: Mapped[str | None]  # where the provider's API is for this account, as it told


class SeenRefreshTokenRow(Base):
    """Every refresh token a grant ever had: what is in here is never news (M2, M3)."""

    __tablename__ = "seen_refresh_tokens"

    grant_id: Mapped[UUID] = mapped_column(primary_key=True)
    fp: Mapped[bytes] = mapped_column(primary_key=True)  # its beginning: `worker.store.seen`
    generation: Mapped[int | None]  # of old rows
    seen_at: Mapped[datetime]


class CandidateRow(Base):
    """Tokens that are not current and not proven spent: a lost fence never discards one (I3)."""

    __tablename__ = "candidates"
    __table_args__ = (
        UniqueConstraint("grant_id", "rt_fp", name="uq_candidates_token"),
        Index(
            "ix_candidates_spent",
            "spent_at",
            postgresql_where=text("spent_at IS NOT NULL"),
            sqlite_where=text("spent_at IS NOT NULL"),
        ),
        Index(
            "ix_candidates_held",
            "held_by",
            postgresql_where=text("held_by IS NOT NULL"),
            sqlite_where=text("held_by IS NOT NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(_BIG_ID, primary_key=True, autoincrement=True)
    grant_id: Mapped[UUID]
    generation: Mapped[int]  # the one its ciphertexts are bound to; unique per grant
    family: Mapped[int]
    fence: Mapped[int | None]  # of the attempt that received it; NULL: came with a login
    parent_fp: Mapped[bytes | None]
    rt_fp: Mapped[bytes]
    refresh_token: Mapped[bytes]  # sealed
    access_token: Mapped[bytes | None]
    at_fp: Mapped[bytes | None]
    scope: Mapped[str | None]
    issued_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    why: Mapped[str]  # "login", "lost_fence", "superseded_family", "fewer_scopes"
    created_at: Mapped[datetime]
    spent_at: Mapped[datetime | None]  # tried and refused, or known superseded
    # another grant that held this very token when it came, and alone may spend it (C18)
    held_by: Mapped[UUID | None]


class PullRow(Base):
    """The pull fence of one user: a pull that began earlier never merges after a later one."""

    __tablename__ = "pulls"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    subject: Mapped[str] = mapped_column(primary_key=True)  # "user:<id>" or "connection:<name>"
    fence: Mapped[int]
    pulled_at: Mapped[datetime | None]
    reserved_at: Mapped[datetime | None]  # a pull announced; long ago if none was, but one began
    missing: Mapped[int]  # 404s in a row (I22: deletion acts on the second)


class InboxRow(Base):
    """An event as accepted: durable before the sender hears 2xx, worked off afterwards."""

    __tablename__ = "inbox"
    __table_args__ = (
        UniqueConstraint("tenant", "source", "delivery_id", name="uq_inbox_delivery"),
        Index(
            "ix_inbox_due",
            "next_at",
            postgresql_where=text("next_at IS NOT NULL"),
            sqlite_where=text("next_at IS NOT NULL"),
        ),
        Index(
            "ix_inbox_subject",
            "tenant",
            "subject",
            postgresql_where=text("next_at IS NOT NULL"),
            sqlite_where=text("next_at IS NOT NULL"),
        ),
        Index("ix_inbox_received", "received_at"),
        Index(
            "ix_inbox_stuck",  # small: what gave up or could not be read
            "received_at",
            postgresql_where=text("state IN ('failed', 'unreadable')"),
            sqlite_where=text("state IN ('failed', 'unreadable')"),
        ),
    )

    id: Mapped[int] = mapped_column(_BIG_ID, primary_key=True, autoincrement=True)
    tenant: Mapped[str]
    source: Mapped[str] = mapped_column(String(16))
    delivery_id: Mapped[str]
    trigger: Mapped[str | None]  # NULL: unreadable, kept in `raw`
    subject: Mapped[str | None]  # `Event.subject`; rows of one are worked off together
    event: Mapped[dict[str, Any]]  # the ids of domain.event.Event; no body, no token
    raw: Mapped[bytes | None]  # only of what could not be read, at most 64 KiB
    state: Mapped[str] = mapped_column(String(12))  # new, done, failed, unreadable
    progress: Mapped[dict[str, Any]]  # action name → "done", or what it failed with
    attempts: Mapped[int]
    next_at: Mapped[datetime | None]  # NULL: nothing more to do
    lease_until: Mapped[datetime | None]
    error: Mapped[str | None]
    received_at: Mapped[datetime]
    done_at: Mapped[datetime | None]


class OutboxRow(Base):
    """A notice to apps and operators; one per episode."""

    __tablename__ = "outbox"
    __table_args__ = (
        UniqueConstraint("tenant", "episode", name="uq_outbox_episode"),
        Index(
            "ix_outbox_due",
            "next_at",
            postgresql_where=text("next_at IS NOT NULL"),
            sqlite_where=text("next_at IS NOT NULL"),
        ),
        Index(
            "ix_outbox_done",
            "created_at",
            postgresql_where=text("next_at IS NULL"),
            sqlite_where=text("next_at IS NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(_BIG_ID, primary_key=True, autoincrement=True)
    tenant: Mapped[str]
    kind: Mapped[str]
    episode: Mapped[str]
    grant_id: Mapped[UUID | None]
    notice: Mapped[dict[str, Any]]
    attempts: Mapped[int]
    next_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    sent_at: Mapped[datetime | None]


class AuditRow(Base):
    """One audit entry. Each writing process has a chain of its own, so none waits for another."""

    __tablename__ = "audit"
    __table_args__ = (Index("ix_audit_grant", "grant_id", "at"),)

    chain: Mapped[str] = mapped_column(primary_key=True)  # node, process, start
    seq: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    actor: Mapped[str]
    verb: Mapped[str]
    tenant: Mapped[str]
    grant_id: Mapped[UUID | None]
    detail: Mapped[dict[str, Any]]
    hash: Mapped[bytes]  # over the entry and the hash before it


class AuditCutRow(Base):
    """Where retention ended a chain from below: entries up to `seq` are gone, by our own hand."""

    __tablename__ = "audit_cuts"

    chain: Mapped[str] = mapped_column(primary_key=True)
    seq: Mapped[int]
    hash: Mapped[bytes]  # of the last entry that is gone, so that the next one can be checked
    cut_at: Mapped[datetime]
    tag: Mapped[bytes]  # made with a key: who may only write here cannot cut


class ApiKeyRow(Base):
    """What an app may read. The key itself is not here: its SHA-256 is (keys have ≥ 256 bits)."""

    __tablename__ = "api_keys"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    digest: Mapped[bytes] = mapped_column(unique=True)
    tenant: Mapped[str]  # pattern, `*` matches any
    connection: Mapped[str]
    user: Mapped[str]
    verbs: Mapped[str]  # space separated: read, renew, revoke, status
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class TenantRow(Base):
    """What all processes share about one Auth0 tenant."""

    __tablename__ = "tenants"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    api_token: Mapped[bytes | None]  # Management API token, sealed
    api_token_expires_at: Mapped[datetime | None]
    api_scope: Mapped[str | None]
    budget: Mapped[dict[str, Any]]  # bucket name → {"level": …, "at": …}
    blocked_until: Mapped[datetime | None]  # Auth0 answered 429
    log_checkpoint: Mapped[str | None]
    # Auth0's own streams towards us, by id, as last looked at: name, status, since
    streams: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default=text("'{}'"))
    # how far the Events API was followed, and by whom: offset, at, holder, until
    events: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default=text("'{}'"))
    # the latest reconcile: began, ended, after, counts, holder, until
    reconcile: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default=text("'{}'"))
    # backfills that were begun, by what they read: which run has it, how far it is, who failed
    backfill: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default=text("'{}'"))


class HostRow(Base):
    """A provider host that asked us to wait, or whose circuit is open; shared by all processes."""

    __tablename__ = "hosts"

    host: Mapped[str] = mapped_column(primary_key=True)
    blocked_until: Mapped[datetime | None]
    why: Mapped[str | None]
    failures: Mapped[int]
    updated_at: Mapped[datetime]


class HintRow(Base):
    """The hint on its way for one subject: at most one is outstanding, so ticks do not pile up."""

    __tablename__ = "hints"

    subject: Mapped[str] = mapped_column(primary_key=True)  # "renew.<entry>", "events", "upkeep"
    sent_at: Mapped[datetime]
    outstanding_until: Mapped[datetime]


class NodeRow(Base):
    """A node that keeps a journal, and how far it has replayed (C10, I24)."""

    __tablename__ = "nodes"

    node: Mapped[str] = mapped_column(primary_key=True)
    process: Mapped[str]
    seen_at: Mapped[datetime]
    replayed_at: Mapped[datetime | None]


class CounterRow(Base):
    """Named counters that never fall: one behind a node's memory of it betrays a rollback."""

    __tablename__ = "counters"

    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[int]


class DeadMessageRow(Base):
    """A queue message that could not be understood, as `evergrant events failed` lists it."""

    __tablename__ = "dead_messages"

    id: Mapped[int] = mapped_column(_BIG_ID, primary_key=True, autoincrement=True)
    queue: Mapped[str]
    why: Mapped[str]
    body: Mapped[bytes]  # at most 64 KiB
    received_at: Mapped[datetime]
