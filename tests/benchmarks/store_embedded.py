"""The embedded store of `bench_store`: its rows, and a loop that renews them in bare sqlite3."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Mapping
from uuid import uuid4

from tests.benchmarks.store_stage import CLAIM, GROUP, PROVIDER, TENANT


def plant(path: str, count: int, sealed: tuple[int, int]) -> None:
    """Rows as `Database` fills them, in SQLite's words."""
    with sqlite3.connect(path) as db:
        micros = int(time.time() * 1e6)
        names = [column[1] for column in db.execute("PRAGMA table_info(grants)")]
        for number in range(count):
            row = (
                dict.fromkeys(names)
                | _EMBEDDED_ROW
                | {
                    "id": uuid4().hex,
                    "identity_user_id": f"1{number:020}",
                    "user_id": f"google-oauth2|1{number:020}",
                    "access_token": os.urandom(sealed[0]),
                    "refresh_token": os.urandom(sealed[1]),
                    "rt_fp": os.urandom(32),
                    "due_at": micros - 3_600_000_000 + number,
                }
            )
            row |= dict.fromkeys(("issued_at", "logged_in_at", "created_at"), micros)
            marks = ", ".join("?" * len(row))
            db.execute(f"INSERT INTO grants ({', '.join(row)}) VALUES ({marks})", [*row.values()])


_EMBEDDED_ROW: Mapping[str, object] = {
    "tenant": TENANT,
    "connection": "google-oauth2",
    "part": "user",
    "strategy": PROVIDER,
    "provider": PROVIDER,
    "state": "active",
    "renewable": 1,
    "generation": 1,
    "family": 1,
    "last_generation": 1,
    "token_type": "Bearer",
    "scope": "openid email",
    "expiry": "at",
    "access_key": bytes(77),
    "refresh_key": bytes(77),
    "at_fp": bytes(32),
    "rotated_before": 0,
    "failures": 0,
    "fence": 1,
    "uncertain": 0,
    "pull_fence": 1,
}


def renew_bare(path: str, count: int, sealed: tuple[int, int]) -> None:
    """What is left if nothing is checked, fenced or audited."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA synchronous=FULL")
    for _ in range(count // CLAIM):
        db.execute("BEGIN IMMEDIATE")
        now = int(time.time() * 1e6)
        rows = db.execute(_BARE_DUE, (PROVIDER, TENANT, now)).fetchall()
        db.executemany(_BARE_TAKE, [(uuid4().hex, now, row[0]) for row in rows])
        db.execute("COMMIT")
        for start in range(0, len(rows), GROUP):
            db.execute("BEGIN IMMEDIATE")
            group = [
                (os.urandom(sealed[0]), os.urandom(sealed[1]), now - 1_000_000, row[0])
                for row in rows[start : start + GROUP]
            ]
            db.executemany(_BARE_WRITE, group)
            db.execute("COMMIT")
    db.close()


_BARE_DUE = (
    "SELECT id, access_token, refresh_token FROM grants WHERE provider = ? AND tenant = ? "
    f"AND due_at <= ? AND attempt IS NULL ORDER BY due_at LIMIT {CLAIM}"
)
_BARE_TAKE = "UPDATE grants SET attempt = ?, lease_until = ? WHERE id = ?"
_BARE_WRITE = (
    "UPDATE grants SET access_token = ?, refresh_token = ?, due_at = ?, attempt = NULL, "
    "generation = generation + 1 WHERE id = ?"
)
