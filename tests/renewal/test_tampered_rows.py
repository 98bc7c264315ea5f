"""Whoever can write to the database can break a grant, but not have a token sent or served that
does not belong there (I16, T14)."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import select, update

from tests.planted import row_of
from tests.simulation.virtual_time import run
from worker.domain.errors import KeyringError, TamperError
from worker.domain.exchange import Rotation
from worker.domain.held import Actor
from worker.handout.explain import what_next
from worker.store.audit import AuditLog
from worker.store.engine import writing
from worker.store.handout import HandoutRepository
from worker.store.overview import Overview
from worker.store.tables import AuditRow, GrantRow, OutboxRow
from worker.vault import AesVault, Keyring

# what is put into the row of `grant`, of itself (`row`), an earlier state of it, or another grant
TAMPERING = {
    "one byte changed": lambda row, _before, _other: {"refresh_token": flipped(row.refresh_token)},
    "another's token": lambda _row, _before, other: {"refresh_token": other.refresh_token},
    "another's token with its key": lambda _row, _before, other: {
        "refresh_token": other.refresh_token,
        "refresh_key": other.refresh_key,
    },
    "the access token in its place": lambda row, _before, _other: {
        "refresh_token": row.access_token,
        "refresh_key": row.access_key,
    },
    "an older token put back": lambda _row, before, _other: {"refresh_token": before.refresh_token},
    "sealed with a key nobody has": lambda row, _before, _other: {
        "refresh_key": AesVault(Keyring.generate()).new_keys(row.tenant, row.id)[1]
    },
    "no key at all": lambda _row, _before, _other: {"refresh_key": b"\2"},
}


TAMPERED = {name: how for name, how in TAMPERING.items() if "nobody has" not in name}


def flipped(sealed: bytes) -> bytes:
    return sealed[:-1] + bytes([sealed[-1] ^ 1])


@pytest.mark.parametrize("tamper", TAMPERING.values(), ids=TAMPERING)
def test_a_row_that_was_tampered_with_sends_nothing(world, tamper):
    async def story():
        w = world(Rotation.F)
        grant, other = w.plant("r0"), w.plant("s0")
        before = row_of(w.store, grant)
        process = w.start()
        assert await process.drain() == {"renewed": 2}
        changed = tamper(row_of(w.store, grant), before, row_of(w.store, other))
        with writing(w.store) as db:
            this = update(GrantRow).where(GrantRow.id == grant)
            db.execute(this.values(due_at=w.now(), **changed))
            db.execute(update(GrantRow).where(GrantRow.id == other).values(due_at=w.now()))
        await asyncio.sleep(1)
        assert (await process.drain())["renewed"] == 1, "its neighbour on the connection"
        assert len(w.network.sent) == 3
        assert row_of(w.store, grant).last_error

    run(story())


@pytest.mark.parametrize("tamper", TAMPERED.values(), ids=TAMPERED)
def test_and_that_is_told_once_and_stands_in_the_audit(world, tamper):
    async def story():
        w = world(Rotation.F)
        grant, other = w.plant("r0"), w.plant("s0")
        before = row_of(w.store, grant)
        process = w.start()
        await process.drain()
        changed = tamper(row_of(w.store, grant), before, row_of(w.store, other))
        for _ in range(2):
            with writing(w.store) as db:
                this = update(GrantRow).where(GrantRow.id == grant)
                db.execute(this.values(due_at=w.now(), **changed))
            await asyncio.sleep(1)
            await process.drain()
        row = row_of(w.store, grant)
        assert (row.state, row.renewable, row.due_at) == ("active", True, None)
        with writing(w.store) as db:
            told = db.execute(select(OutboxRow.notice).where(OutboxRow.kind == "grant_unreadable"))
            found = select(AuditRow.grant_id, AuditRow.detail).where(AuditRow.verb == "unreadable")
            assert [one["reason"] for one in told.scalars()] == [row.last_error]
            assert list(db.execute(found)) == [(grant, {"code": row.last_error})] * 2
            held = HandoutRepository(w.store, AuditLog("test")).by_id(grant)
        step, who = what_next(held, None, w.now())
        assert row.last_error in step
        assert who is Actor.OPERATOR
        (line,) = Overview(w.store).unreadable("acme")
        assert (line.reason, line.grants) == (row.last_error, 1)

    run(story())


@pytest.mark.parametrize("tamper", TAMPERING.values(), ids=TAMPERING)
def test_and_opens_for_nobody(world, tamper):
    async def story():
        w = world(Rotation.F)
        grant, other = w.plant("r0"), w.plant("s0")
        before = row_of(w.store, grant)
        await w.start().drain()
        row = row_of(w.store, grant)._asdict()
        row |= tamper(row_of(w.store, grant), before, row_of(w.store, other))
        with pytest.raises((TamperError, KeyringError)):
            w.vault.open(
                row["refresh_token"],
                tenant=row["tenant"],
                grant=grant,
                generation=row["generation"],
                kind="rt",
                key=row["refresh_key"],
            )

    run(story())
