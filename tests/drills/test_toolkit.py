"""Killed workers against django-oauth-toolkit, which revokes a family if a spent token comes again.

https://django-oauth-toolkit.readthedocs.io/en/latest/settings.html#refresh-token-reuse-protection
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime

import httpx
import pytest

from tests.drills.drill import drilled
from tests.planted import plant
from worker.domain.exchange import ConnectionConfig
from worker.domain.secret import Secret
from worker.rehearsal.config import TENANT
from worker.store.connections import ConnectionRepository
from worker.store.engine import open_engine
from worker.store.seen import beginning
from worker.vault import AesVault, Keyring

LONG = os.environ.get("EVERGRANT_DRILL") == "long"
GRANTS = 60 if LONG else 12
KILLS = 60 if LONG else 3
LIFE = 8


def _planted(drill, toolkit):
    """Grants of one client at the toolkit, due now, as a login would have left them."""
    vault = AesVault(Keyring.load(drill.directory / "keyring.json"))
    engine = open_engine(drill.environment["EVERGRANT_DATABASE_URL"])
    minted = toolkit.mint(subject="u0", lifetime=LIFE)
    client = {"client_id": minted.client_id, "client_secret": minted.client_secret}
    others = [toolkit.mint(subject=f"u{n}", lifetime=LIFE, **client) for n in range(1, GRANTS)]
    now = datetime.now(UTC)
    config = ConnectionConfig(
        tenant=TENANT,
        name="toolkit",
        id=None,
        strategy="oauth2",
        client_id=minted.client_id,
        client_secret=Secret(minted.client_secret),
        options={"tokenURL": toolkit.token_url},
        headers={},
        overrides={},
        fetched_at=now,
        approved_host=None,
        stopped=None,
    )
    ConnectionRepository(engine, vault).put(config, options_seen=True)
    for number, one in enumerate([minted, *others]):
        plant(
            engine,
            vault,
            now=now,
            tenant=TENANT,
            rt=one.refresh_token,
            at=one.access_token,
            connection="toolkit",
            provider="oauth2",
            identity=f"u{number}",
        )
    engine.dispose()
    return vault, {one.refresh_token for one in (minted, *others)}


def _rows(drill):
    return [row for row in drill.rows() if row.connection == "toolkit"]


def _told(drill, before):
    """Renewed once more, or called dead."""
    rows = _rows(drill)
    return bool(rows) and all(
        row.state == "needs_reauth" or row.renewed_at != before[row.id] for row in rows
    )


@pytest.mark.timeout(480)
def test_no_family_is_revoked_while_its_newest_token_is_ours(tmp_path, own_server, toolkit, tell):
    """I4 with F, against a server that we did not write: what is lost never reached us."""
    toolkit.configure(ACCESS_TOKEN_EXPIRE_SECONDS=LIFE, REFRESH_TOKEN_REUSE_PROTECTION=True)
    with drilled(tmp_path, own_server("postgres"), own_server("redis"), users=0) as drill:
        vault, first = _planted(drill, toolkit)
        drill.wait_for("all have renewed", lambda: all(row.generation > 0 for row in _rows(drill)))
        for _ in range(KILLS):
            time.sleep(1)
            drill.kill_one()
        before = {row.id: row.renewed_at for row in _rows(drill)}
        drill.wait_for("every verdict is spoken", lambda: _told(drill, before), patience=300)
        drill.rest()
        held, dead = drill.held(), sum(row.state == "needs_reauth" for row in _rows(drill))
        told = httpx.get(f"{toolkit.base_url}/families", trust_env=False).json()
    families = [family for family in told if family["first"] in first]
    ours = {
        f["newest"]: beginning(vault.fingerprint(Secret(f["newest"]))) in held for f in families
    }
    never_durable = sum(not mine for mine in ours.values())
    revoked = [f for f in families if f["revoked"]]
    twice = sum(ours[f["newest"]] for f in revoked)
    renewals = sum(f["tokens"] - 1 for f in families)
    tell(
        f"renewals {renewals}, kills {drill.kills}, families revoked {len(revoked)}, "
        f"of these by us {twice}, lost {dead}, never durable {never_durable}"
    )
    assert twice == 0
    assert dead == never_durable == len(revoked)
