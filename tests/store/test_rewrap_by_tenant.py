"""Keyrings of single tenants: rotated, moved and emptied while all renew (I23, T16)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest
from sqlalchemy import Engine, select

from tests.clock import FakeClock
from tests.grants import GrantTable
from tests.store.test_rewrap import ROTATED, opened, renew_in_place
from worker.domain.errors import ConfigurationError, KeyringError
from worker.domain.exchange import ConnectionConfig
from worker.domain.grant import GrantId
from worker.domain.ports import ApiToken
from worker.domain.secret import Secret
from worker.store.connections import ConnectionRepository
from worker.store.engine import open_engine, reading, writing
from worker.store.rewrap import belongs, references, refuse_if_referenced, rewrap, unreadable
from worker.store.tables import ConnectionRow, GrantRow, TenantRow
from worker.store.tenants import TenantRepository
from worker.store.whose import EVERYBODY, Whose
from worker.vault import OF_A_TENANT, AesVault, Keyring, KeyringSource, TenantVaults, aes

ACME, BETA = "acme", "beta"
OURS = Whose(only=frozenset({ACME}))  # who uses acme's keyring
THE_REST = Whose(but=frozenset({ACME}))


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    Keyring.create(tmp_path / "shared.json")
    return tmp_path / "shared.json"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return tmp_path / "acme.json"


def before_the_move(shared: Path) -> TenantVaults:
    return TenantVaults(AesVault.from_source(shared), {}, open_=AesVault.from_source)


def after_the_move(shared: Path, own: Path) -> TenantVaults:
    return TenantVaults(AesVault.from_source(shared), {ACME: str(own)}, open_=AesVault.from_source)


def move(shared: Path, own: Path) -> None:
    """What `keys move FILE --tenant acme` writes."""
    KeyringSource(str(own)).create(Keyring.load(shared).limited_to(OF_A_TENANT))


def fill(engine: Engine, vault: TenantVaults, clock: FakeClock) -> list[GrantId]:
    """Grants, a connection and a Management API token of each tenant."""
    table = GrantTable(engine, vault, clock)
    for tenant in (ACME, BETA):
        config = ConnectionConfig(
            tenant=tenant,
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
        TenantRepository(engine, vault).put_token(tenant, token)
    return [
        table.add(tenant=tenant, identity_user_id=str(number))
        for tenant in (ACME, BETA)
        for number in range(6)
    ]


def rotate(path: Path) -> list[str]:
    """Returns the ids of the keys that were primary."""
    source = KeyringSource(str(path))
    old = [source.load().primary(purpose).id for purpose in ROTATED]
    for purpose in ROTATED:
        source.edit(lambda ring, purpose=purpose: ring.rotate(purpose))  # type: ignore[misc]
    return old


def sealed_of(engine: Engine, tenant: str) -> set[bytes]:
    """All wrapped keys and sealed values of a tenant, as they lie in the store."""
    columns = (
        GrantRow.access_key,
        GrantRow.refresh_key,
        ConnectionRow.secrets,
        TenantRow.api_token,
    )
    with reading(engine) as connection:
        return {
            bytes(value)
            for column in columns
            for value in connection.execute(
                select(column).where(column.class_.tenant == tenant)
            ).scalars()
        }


def all_open(engine: Engine, vault: TenantVaults, grants: list[GrantId]) -> bool:
    for tenant in (ACME, BETA):
        ConnectionRepository(engine, vault).get(tenant, "google")
        TenantRepository(engine, vault).token(tenant)
    return all(opened(engine, vault, grant) for grant in grants)


def test_one_tenants_keys_are_rotated_and_the_others_are_not_touched(
    engine: Engine, clock: FakeClock, shared: Path, own: Path
) -> None:
    move(shared, own)
    vault = after_the_move(shared, own)
    grants = fill(engine, vault, clock)
    before = {tenant: sealed_of(engine, tenant) for tenant in (ACME, BETA)}
    old = rotate(own)
    done = rewrap(engine, AesVault.from_source(own), whose=OURS)
    assert (done.moved, done.left) == (6 + 2, 0)
    assert sealed_of(engine, BETA) == before[BETA]
    assert not sealed_of(engine, ACME) & before[ACME]
    assert not set(old) & set(references(engine, OURS))
    assert set(old) & set(references(engine, THE_REST)), "beta's are under the keys of that id"
    assert all_open(engine, after_the_move(shared, own), grants)
    assert rewrap(engine, AesVault.from_source(shared), whose=THE_REST).moved == 0


def test_a_rewrap_of_one_keyring_does_not_stumble_over_what_another_sealed(
    engine: Engine, clock: FakeClock, shared: Path, own: Path
) -> None:
    """Rows "not under a primary" of the deployment's keyring are not its rows for that."""
    KeyringSource(str(own)).create(Keyring.generate(OF_A_TENANT))
    grants = fill(engine, after_the_move(shared, own), clock)
    rotate(shared)
    done = rewrap(engine, AesVault.from_source(shared), whose=THE_REST)
    assert (done.moved, done.left) == (6 + 2, 0)
    assert all_open(engine, after_the_move(shared, own), grants)
    with pytest.raises(KeyringError, match="no key"):
        rewrap(engine, AesVault.from_source(shared), whose=EVERYBODY)


def test_a_key_is_destroyed_only_when_its_own_tenants_need_it_no_more(
    engine: Engine, clock: FakeClock, shared: Path, own: Path
) -> None:
    move(shared, own)
    fill(engine, after_the_move(shared, own), clock)
    (refresh, _, _) = rotate(own)
    with pytest.raises(ConfigurationError, match="6 ciphertexts"):
        refuse_if_referenced(engine, refresh, OURS)
    rewrap(engine, AesVault.from_source(own), whose=OURS)
    refuse_if_referenced(engine, refresh, OURS)
    with pytest.raises(ConfigurationError, match="6 ciphertexts"):
        refuse_if_referenced(engine, refresh, THE_REST)


def test_whose_keyring_a_file_is_is_told_by_that_tenants_tokens(
    engine: Engine, clock: FakeClock, shared: Path, own: Path
) -> None:
    KeyringSource(str(own)).create(Keyring.generate(OF_A_TENANT))
    fill(engine, after_the_move(shared, own), clock)
    ids = {path: {key.id for key in Keyring.load(path).keys} for path in (shared, own)}
    assert belongs(engine, ids[own], OURS)
    assert not belongs(engine, ids[shared], OURS)
    assert belongs(engine, ids[shared], THE_REST)
    assert not belongs(engine, ids[own], THE_REST)
    assert unreadable(engine, ids[own], OURS) == {}
    assert sorted(unreadable(engine, ids[shared], OURS).values()) == [2, 6, 6]


@contextmanager
def renewing(
    store_url: str, vault: TenantVaults, grants: list[GrantId], clock: FakeClock
) -> Iterator[Callable[[int], None]]:
    """A process that renews all the while; yields a wait for so many more renewals."""
    stop, failures, renewed = Event(), list[BaseException](), list[GrantId]()

    def renew() -> None:
        store = open_engine(store_url)
        table = GrantTable(store, vault, clock)
        try:
            while not stop.is_set():
                for grant in grants:
                    opened(store, vault, grant)
                    with writing(store) as connection:
                        renew_in_place(connection, vault, grant)
                    renewed.append(grant)
                for tenant in (ACME, BETA):  # somebody new logs in
                    table.add(tenant=tenant, identity_user_id=f"{id(vault)}-{len(renewed)}")
                    ConnectionRepository(store, vault).get(tenant, "google")
                    assert TenantRepository(store, vault).token(tenant)
        except BaseException as error:  # told to the test, whatever it is
            failures.append(error)
        store.dispose()

    def wait(more: int) -> None:
        wanted = len(renewed) + more
        while len(renewed) < wanted and not failures:
            stop.wait(0.01)

    thread = Thread(target=renew)
    thread.start()
    try:
        yield wait
    finally:
        stop.set()
        thread.join()
    assert failures == []


def test_a_tenant_moves_to_a_keyring_of_its_own_while_all_renew(
    store_url: str,
    engine: Engine,
    clock: FakeClock,
    shared: Path,
    own: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As docs/keys.md has it: move, start every process anew, rotate, rewrap, destroy.

    While the processes are started one after the other, old ones and new ones renew side by side;
    at no step does any of them meet something that it cannot open.
    """
    monkeypatch.setattr(aes, "_LOOK_EVERY", 0.0)
    old_process = before_the_move(shared)
    grants = fill(engine, old_process, clock)
    mine = grants[:6]
    with ExitStack() as new, ExitStack() as old:
        wait = old.enter_context(renewing(store_url, old_process, grants, clock))
        wait(3)
        move(shared, own)
        new_process = after_the_move(shared, own)
        wait_new = new.enter_context(renewing(store_url, new_process, grants, clock))
        wait(12)
        wait_new(12)
        old.close()  # the last of the old ones has ended

        shared_file = shared.read_bytes()
        gone = rotate(own)
        wait_new(12)
        while rewrap(engine, AesVault.from_source(own), whose=OURS, batch=3).left:
            pass
        wait_new(12)
        for key_id in gone:
            while references(engine, OURS)[key_id]:
                rewrap(engine, AesVault.from_source(own), whose=OURS)
            KeyringSource(str(own)).edit(lambda ring, it=key_id: ring.disable(it))  # type: ignore[misc]
            KeyringSource(str(own)).edit(
                lambda ring, it=key_id: ring.destroy(it, references=references(engine, OURS)[it])  # type: ignore[misc]
            )
        wait_new(24)
    assert shared.read_bytes() == shared_file
    assert not {key.id for key in Keyring.load(own).keys} & {
        key.id for key in Keyring.load(shared).keys
    }
    assert all_open(engine, after_the_move(shared, own), grants)
    for grant in mine:
        with pytest.raises(KeyringError, match="no key"):
            opened(engine, before_the_move(shared), grant)
