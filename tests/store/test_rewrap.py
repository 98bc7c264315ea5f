"""Keys are rotated while grants are renewed, and nothing becomes unreadable (I23, T16)."""

from __future__ import annotations

from pathlib import Path
from threading import Event, Thread

import pytest
from sqlalchemy import Engine, select, update

from tests.clock import FakeClock
from tests.grants import GrantTable
from worker.domain.errors import ConfigurationError, TamperError
from worker.domain.exchange import ConnectionConfig
from worker.domain.grant import GrantId
from worker.domain.ports import ApiToken, Vault
from worker.domain.secret import Secret
from worker.store.connections import ConnectionRepository
from worker.store.engine import open_engine, reading, writing
from worker.store.rewrap import Progress, references, refuse_if_referenced, rewrap, unreadable
from worker.store.tables import GrantRow
from worker.store.tenants import TenantRepository
from worker.vault import AesVault, Keyring, KeyringSource, Purpose

ROTATED = (Purpose.REFRESH, Purpose.ACCESS, Purpose.CONFIG)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Keyring.create(tmp_path / "keyring.json")
    return tmp_path / "keyring.json"


def fill(engine: Engine, vault: AesVault, clock: FakeClock, count: int = 7) -> list[GrantId]:
    """`count` grants, a connection and a tenant, everything sealed by `vault`."""
    table = GrantTable(engine, vault, clock)
    config = ConnectionConfig(
        tenant="acme",
        name="google",
        id=None,
        strategy="google-oauth2",
        client_id="c",
        client_secret=Secret("s"),
        options={},
        headers={},
        overrides={},
        fetched_at=clock.now(),
        approved_host=None,
        stopped=None,
    )
    ConnectionRepository(engine, vault).put(config, options_seen=True)
    token = ApiToken(token=Secret("m"), expires_at=clock.now(), scope="")
    TenantRepository(engine, vault).put_token("acme", token)
    return [table.add(identity_user_id=str(number)) for number in range(count)]


def rotate(path: Path) -> list[str]:
    """Rotate all that rotate; returns the ids of the keys that were primary."""
    source = KeyringSource(str(path))
    old = [source.load().primary(purpose).id for purpose in ROTATED]
    for purpose in ROTATED:
        source.edit(lambda ring, purpose=purpose: ring.rotate(purpose))  # type: ignore[misc]
    return old


def opened(engine: Engine, vault: Vault, grant: GrantId) -> Secret:
    table = GrantRow.__table__
    with reading(engine) as connection:
        row = connection.execute(select(table).where(table.c.id == grant)).one()
    return vault.open(
        row.refresh_token,
        tenant=row.tenant,
        grant=grant,
        generation=row.generation,
        kind="rt",
        key=row.refresh_key,
    )


def test_after_a_rewrap_the_old_keys_are_needed_by_nothing(
    engine: Engine, clock: FakeClock, path: Path
) -> None:
    grants = fill(engine, AesVault.from_source(path), clock)
    old = rotate(path)
    assert {references(engine)[key_id] for key_id in old} == {7, 2}
    with pytest.raises(ConfigurationError, match="7 ciphertexts"):
        refuse_if_referenced(engine, old[0])

    told: list[Progress] = []
    vault = AesVault.from_source(path)
    done = rewrap(engine, vault, batch=3, told=told.append)
    assert (done.moved, done.left) == (9, 0)
    assert [progress.left for progress in told] == [4, 1, 0]
    assert all(references(engine)[key_id] == 0 for key_id in old)

    for key_id in old:
        refuse_if_referenced(engine, key_id)
        KeyringSource(str(path)).edit(lambda ring, it=key_id: ring.disable(it))  # type: ignore[misc]
        KeyringSource(str(path)).edit(
            lambda ring, it=key_id: ring.destroy(it, references=references(engine)[it])  # type: ignore[misc]
        )
    after = AesVault.from_source(path)
    assert {opened(engine, after, grant) for grant in grants} == {Secret("rt-0")}
    assert ConnectionRepository(engine, after).get("acme", "google")
    assert TenantRepository(engine, after).token("acme")


def test_the_wrong_keyring_is_told_by_what_it_cannot_open(
    engine: Engine, clock: FakeClock, path: Path
) -> None:
    vault = AesVault.from_source(path)
    fill(engine, vault, clock)
    assert unreadable(engine, {key.id for key in vault.keyring.keys}) == {}
    others = {key.id for key in Keyring.generate().keys}
    assert sorted(unreadable(engine, others).values()) == [2, 7, 7]


def test_a_rewrap_that_was_stopped_goes_on_where_it_ended(
    engine: Engine, clock: FakeClock, path: Path
) -> None:
    fill(engine, AesVault.from_source(path), clock)
    rotate(path)

    def stop(_: Progress) -> None:
        raise KeyboardInterrupt

    vault = AesVault.from_source(path)
    with pytest.raises(KeyboardInterrupt):
        rewrap(engine, vault, batch=3, told=stop)
    assert rewrap(engine, vault, batch=3).moved == 4
    assert rewrap(engine, vault).moved == 0


def test_a_shredded_grant_has_nothing_to_move(engine: Engine, clock: FakeClock, path: Path) -> None:
    grants = fill(engine, AesVault.from_source(path), clock, count=2)
    with writing(engine) as connection:
        gone = update(GrantRow).where(GrantRow.id == grants[0])
        connection.execute(gone.values(access_key=None, refresh_key=None))
    rotate(path)
    assert rewrap(engine, AesVault.from_source(path)).moved == 3


def test_a_key_shredded_meanwhile_stays_shredded(
    store_url: str, engine: Engine, clock: FakeClock, path: Path
) -> None:
    """I14: whoever writes back what he read a moment ago would bring the grant back to life."""
    (grant,) = fill(engine, AesVault.from_source(path), clock, count=1)
    rotate(path)
    vault, shredders = AesVault.from_source(path), list[Thread]()

    def shred() -> None:
        other = open_engine(store_url)
        with writing(other) as connection:
            gone = update(GrantRow).where(GrantRow.id == grant)
            connection.execute(gone.values(access_key=None, refresh_key=None))
        other.dispose()

    class Slow:
        """Shredding happens while the key is in our hands."""

        primaries, reseal_config = vault.primaries, vault.reseal_config

        def rewrap(self, wrapped: bytes, *, tenant: str, grant: GrantId) -> bytes:
            if not shredders:
                shredders.append(Thread(target=shred))
                shredders[0].start()
                shredders[0].join(0.3)  # it gets this far only where nothing holds it back
            return vault.rewrap(wrapped, tenant=tenant, grant=grant)

    rewrap(engine, Slow())
    shredders[0].join()
    row = GrantTable(engine, vault, clock).row(grant)
    assert (row.access_key, row.refresh_key) == (None, None)


def test_a_wrapped_key_that_was_tampered_with_is_named(
    engine: Engine, clock: FakeClock, path: Path
) -> None:
    one, other = fill(engine, AesVault.from_source(path), clock, count=2)
    with writing(engine) as connection:
        stolen = select(GrantRow.refresh_key).where(GrantRow.id == other).scalar_subquery()
        connection.execute(update(GrantRow).where(GrantRow.id == one).values(refresh_key=stolen))
    rotate(path)
    with pytest.raises(TamperError, match=str(one)):
        rewrap(engine, AesVault.from_source(path))


def test_renewals_go_on_while_keys_are_rotated_and_moved(
    store_url: str, engine: Engine, clock: FakeClock, path: Path
) -> None:
    """A process that started before the rotation renews all the while, and never fails."""
    running = AesVault.from_source(path)
    grants = fill(engine, running, clock, count=20)
    stop, failures, renewed = Event(), list[BaseException](), list[GrantId]()

    def renew() -> None:
        own = open_engine(store_url)
        table = GrantTable(own, running, clock)
        try:
            while not stop.is_set():
                for grant in grants:
                    opened(own, running, grant)
                    with writing(own) as connection:
                        renew_in_place(connection, running, grant)
                    renewed.append(grant)
                table.add(identity_user_id=f"new-{len(renewed)}")
        except BaseException as error:  # told to the test, whatever it is
            failures.append(error)
        own.dispose()

    thread = Thread(target=renew)
    thread.start()
    vault = AesVault.from_source(path)
    for _ in range(3):
        before = len(renewed)
        rotate(path)
        while len(renewed) < before + 5 and not failures:
            rewrap(engine, vault, batch=4)
    stop.set()
    thread.join()
    assert failures == []
    rewrap(engine, AesVault.from_source(path))
    assert {key for key in references(engine) if references(engine)[key]} <= vault.primaries()
    assert {opened(engine, AesVault.from_source(path), grant) for grant in grants}


def renew_in_place(connection: object, vault: Vault, grant: GrantId) -> None:
    """What a commit does: new ciphertexts under the data keys that the row holds now."""
    from sqlalchemy import Connection

    assert isinstance(connection, Connection)
    table = GrantRow.__table__
    row = connection.execute(select(table).where(table.c.id == grant).with_for_update()).one()
    sealed = vault.seal(
        Secret("renewed"),
        tenant=row.tenant,
        grant=grant,
        generation=row.generation + 1,
        kind="rt",
        key=row.refresh_key,
    )
    values = {"refresh_token": sealed, "generation": row.generation + 1}
    connection.execute(update(GrantRow).where(GrantRow.id == grant).values(values))
