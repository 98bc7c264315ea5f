"""What the processes that need little of the database may do there (I17): PostgreSQL's own word.

A process that is taken over speaks SQL as its role. The owner of the tables could name another
token endpoint, and a worker would send refresh tokens there; the web role, which the internet
reaches, and the scheduler therefore get roles that cannot. Workers and the command line are the
owner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, Engine, text

from worker.domain.errors import ConfigurationError
from worker.store.engine import writing
from worker.store.tables import Base

Rights = Mapping[str, Mapping[str, Sequence[str]]]
"""Table → privilege → columns; none: the whole row."""

_HINTS: Mapping[str, Sequence[str]] = {"SELECT": (), "INSERT": (), "UPDATE": (), "DELETE": ()}
_SERVED = (  # no refresh token, no key to one, no fingerprint, no claim
    *("id", "tenant", "connection", "identity_user_id", "part", "user_id", "strategy", "provider"),
    *("state", "reason", "renewable", "alias_of", "generation", "family", "access_token"),
    *("access_key", "token_type", "scope", "issued_at", "expiry", "expires_at", "renewed_at"),
    *("refresh_expires_at", "logged_in_at", "not_before", "rotated_before", "due_at", "failures"),
    *("last_error", "suspect_since", "warned_at", "fence", "attempt", "tombstoned_at"),
    *("withheld", "api_base"),
)
# Given up (`revoke`), or brought forward (`stale`); tokens, keys and claims it cannot write.
_WRITTEN = ("state", "reason", "tombstoned_at", "due_at", "not_before", "failures", "fence")

WEB: Rights = {
    "alembic_version": {"SELECT": ()},
    "grants": {"SELECT": _SERVED, "UPDATE": _WRITTEN},
    "candidates": {"SELECT": ("grant_id", "why", "spent_at")},
    "seen_refresh_tokens": {"SELECT": ("grant_id", "seen_at")},
    "connections": {"SELECT": (), "UPDATE": ("learned",)},
    "tenants": {"SELECT": ("tenant", "budget", "streams")},
    "hosts": {"SELECT": ()},
    "api_keys": {"SELECT": ()},
    "inbox": {"SELECT": (), "INSERT": ()},
    "outbox": {"SELECT": (), "INSERT": ()},
    "audit": {"SELECT": (), "INSERT": ()},
    "hints": _HINTS,
}
SCHEDULER: Rights = {
    "grants": {"SELECT": ("id", "tenant", "provider", "due_at", "state")},
    "inbox": {"SELECT": ("id", "next_at", "lease_until")},
    "outbox": {"SELECT": ("id", "next_at")},
    "hints": _HINTS,
}


def restrict(engine: Engine, role: str, rights: Rights) -> None:
    """Give `role` these rights and take every other from it. Safe to repeat.

    Raises: ConfigurationError, no such role, one that no grant binds, or no PostgreSQL.
    """
    if engine.dialect.name != "postgresql":
        raise ConfigurationError(
            "roles of the database are PostgreSQL's: the embedded one has none", code="no_roles"
        )
    name = engine.dialect.identifier_preparer.quote_identifier(role)
    with writing(engine) as connection:
        _refuse_the_mighty(connection, role)
        for statement in _statements(connection, name, rights):
            connection.exec_driver_sql(statement)


def _refuse_the_mighty(connection: Connection, role: str) -> None:
    asked = text(
        "SELECT r.rolsuper OR pg_has_role(r.oid, c.relowner, 'MEMBER')"
        "  FROM pg_roles r, pg_class c WHERE r.rolname = :role AND c.oid = 'grants'::regclass"
    )
    mighty = connection.execute(asked, {"role": role}).scalar_one_or_none()
    if mighty is None:
        raise ConfigurationError(
            f"the database has no role {role!r}: CREATE ROLE … LOGIN PASSWORD …", code="no_role"
        )
    if mighty:
        raise ConfigurationError(
            f"the role {role!r} owns the tables or is a superuser: name one of its own",
            code="mighty_role",
        )


def _statements(connection: Connection, name: str, rights: Rights) -> list[str]:
    schema = connection.dialect.identifier_preparer.quote_identifier(
        str(connection.scalar(text("SELECT current_schema()")))
    )
    ours = [*Base.metadata.tables, "alembic_version"]
    return [
        f"REVOKE ALL ON {', '.join(ours)} FROM {name}",  # those of single columns too
        f"REVOKE ALL ON ALL SEQUENCES IN SCHEMA {schema} FROM {name}",
        f"REVOKE CREATE ON SCHEMA {schema} FROM {name}",
        f"GRANT USAGE ON SCHEMA {schema} TO {name}",
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {name}",
        *(
            f"GRANT {privilege}{_of(columns)} ON {table} TO {name}"
            for table, privileges in rights.items()
            for privilege, columns in privileges.items()
        ),
    ]


def _of(columns: Sequence[str]) -> str:
    return f" ({', '.join(columns)})" if columns else ""
