"""Tenants with keyrings of their own: what opens whose, and what a broken one costs the others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from threading import Event
from uuid import uuid4

import pytest

from tests.vault.fake_transit import TOKEN as VAULT_TOKEN
from tests.vault.fake_transit import fake_transit
from worker.domain.errors import KeyringError, TamperError, WorkerError
from worker.domain.grant import GrantId
from worker.domain.secret import Secret
from worker.vault import (
    OF_A_TENANT,
    AesVault,
    Keyring,
    KeyringSource,
    KeyState,
    Purpose,
    TenantVaults,
    aes,
    tenants,
)

TOKEN = Secret("a-token-of-somebody")
GRANT = GrantId(uuid4())
# `one` and `two` have keyrings of their own, `three` and `four` share one, the others have none
OWN = {"one": "1.json", "two": "2.json", "three": "34.json", "four": "34.json"}
TENANTS = [*OWN, "five", "six"]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    Keyring.create(tmp_path / "shared.json")
    for name in set(OWN.values()):
        KeyringSource(str(tmp_path / name)).create(Keyring.generate(OF_A_TENANT))
    return tmp_path


@pytest.fixture
def vaults(directory: Path) -> TenantVaults:
    return made(directory)


def made(directory: Path, **more: object) -> TenantVaults:
    own = {tenant: str(directory / name) for tenant, name in OWN.items()}
    more.setdefault("open_", AesVault.from_source)
    shared = AesVault.from_source(directory / "shared.json")
    return TenantVaults(shared, own, **more)  # type: ignore[arg-type]


def wait_until(what: Callable[[], object]) -> None:
    until = time.monotonic() + 30
    while not what():
        assert time.monotonic() < until
        time.sleep(0.01)


def ring_of(tenant: str) -> str:
    return OWN.get(tenant, "shared.json")


@pytest.mark.parametrize(("theirs", "ours"), list(product(TENANTS, TENANTS)))
def test_the_sharing_matrix(vaults: TenantVaults, theirs: str, ours: str) -> None:
    """A tenant's ciphertext opens as its own only; and with the keys of nobody else's keyring,
    even where everything it is bound to is told right."""
    for kind in ("at", "rt"):
        key = vaults.new_keys(theirs, GRANT)[kind == "rt"]
        place = {"grant": GRANT, "generation": 7, "kind": kind, "key": key}
        sealed = vaults.seal(TOKEN, tenant=theirs, **place)
        if theirs == ours:
            assert vaults.open(sealed, tenant=ours, **place) == TOKEN
        else:
            with pytest.raises((TamperError, KeyringError)):
                vaults.open(sealed, tenant=ours, **place)
        with_our_keys = vaults.of(ours)
        if ring_of(theirs) == ring_of(ours):
            assert with_our_keys.open(sealed, tenant=theirs, **place) == TOKEN
        else:
            with pytest.raises(KeyringError, match="no key"):
                with_our_keys.open(sealed, tenant=theirs, **place)
    config = vaults.seal_config(TOKEN, tenant=theirs, scope="s")
    if ring_of(theirs) == ring_of(ours):
        assert vaults.open_config(config, tenant=ours, scope="s") == TOKEN
    else:
        with pytest.raises(KeyringError, match="no key"):
            vaults.open_config(config, tenant=ours, scope="s")


def test_a_key_that_bears_anothers_id_opens_nothing_of_it(directory: Path) -> None:
    """Whoever may write one tenant's keyring learns nothing of another's."""
    one = (directory / "1.json").read_bytes()
    ids = {key.purpose: key.id for key in Keyring.from_json(one).keys}
    forged = Keyring(
        tuple(
            type(key)(
                id=ids[key.purpose],
                purpose=key.purpose,
                state=key.state,
                created_at=key.created_at,
                material=key.material,
            )
            for key in Keyring.generate(OF_A_TENANT).keys
        )
    )
    (directory / "2.json").unlink()
    KeyringSource(str(directory / "2.json")).create(forged)
    vaults = made(directory)
    _, key = vaults.new_keys("one", GRANT)
    place = {"tenant": "one", "grant": GRANT, "generation": 7, "kind": "rt", "key": key}
    sealed = vaults.seal(TOKEN, **place)
    with pytest.raises(TamperError):
        vaults.of("two").open(sealed, **place)


def test_a_token_is_recognised_whoever_holds_it(vaults: TenantVaults, directory: Path) -> None:
    """Two tenants may have one OAuth client; one refresh token is spent once (I1)."""
    shared = AesVault.from_source(directory / "shared.json")
    assert vaults.fingerprint(TOKEN) == shared.fingerprint(TOKEN)


def test_rotating_one_tenants_keys_changes_nothing_for_the_others(
    vaults: TenantVaults, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aes, "_LOOK_EVERY", 0.0)
    before = {tenant: vaults.of(tenant).primaries() for tenant in TENANTS}
    KeyringSource(str(directory / "1.json")).edit(lambda ring: ring.rotate("rt"))
    after = {tenant: vaults.of(tenant).primaries() for tenant in TENANTS}
    assert {tenant for tenant in TENANTS if after[tenant] != before[tenant]} == {"one"}


BROKEN: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "for all to read": lambda path: path.chmod(0o644),
    "of another purpose": lambda path: (
        path.unlink(),
        KeyringSource(str(path)).create(Keyring.generate({Purpose.FINGERPRINT})),
    ),
}


@pytest.mark.parametrize("spoil", BROKEN.values(), ids=BROKEN)
def test_a_broken_keyring_closes_its_tenant_until_it_is_mended(
    directory: Path, spoil: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenants, "LOOK_AGAIN", 0.0)
    path, heard = directory / "1.json", list[tuple[str, str | None]]()
    whole = path.read_bytes()
    spoil(path)

    def open_(address: str) -> AesVault:
        return tenants.complete(AesVault.from_source(address), OF_A_TENANT, address)

    vaults = made(directory, open_=open_, told=lambda *told: heard.append(told))
    assert vaults.closed().keys() == {"one"}
    (why,) = [why for tenant, why in heard if why is not None]
    assert str(path) in why
    for tenant in TENANTS:
        if tenant != "one":
            assert vaults.new_keys(tenant, GRANT)
    with pytest.raises(KeyringError, match="tenant one: its keyring does not open"):
        vaults.new_keys("one", GRANT)

    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(whole)
    wait_until(lambda: not vaults.closed())
    assert vaults.new_keys("one", GRANT)
    assert heard[-1] == ("one", None)


def test_a_keyring_that_is_not_the_tenants_is_not_taken(directory: Path) -> None:
    """What it seals would be lost when the right one comes back."""
    seen = []

    def fits(tenants: list[str], keyring: Keyring) -> bool:
        seen.append((sorted(tenants), len(keyring.keys)))
        return "two" not in tenants

    vaults = made(directory, fits=fits)
    assert "opens none" in vaults.closed()["two"]
    assert "2.json" in vaults.closed()["two"]
    assert sorted(seen) == [(["four", "three"], 3), (["one"], 3), (["two"], 3)]


def test_nobody_waits_for_a_keyring_that_is_long_in_coming(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is read again, that is on a thread of its own: others wait for the asker."""
    monkeypatch.setattr(tenants, "LOOK_AGAIN", 0.0)
    begun, go_on, tries = Event(), Event(), []

    def open_(address: str) -> AesVault:
        if address.endswith("1.json"):
            tries.append(address)
            if len(tries) == 1:
                raise KeyringError("away")
            begun.set()
            go_on.wait(30)
        return AesVault.from_source(address)

    vaults = made(directory, open_=open_)
    with pytest.raises(KeyringError):
        vaults.of("one")
    assert begun.wait(30)
    for _ in range(50):  # while it hangs
        assert vaults.closed().keys() == {"one"}
        assert vaults.new_keys("two", GRANT)
    go_on.set()
    wait_until(lambda: not vaults.closed())
    assert len(tries) == 2


def test_a_file_that_was_replaced_by_anothers_seals_nothing(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in memory goes on opening; and when the right one is back, all is as before."""
    monkeypatch.setattr(aes, "_LOOK_EVERY", 0.0)
    vaults, path = made(directory), directory / "1.json"
    _, key = vaults.new_keys("one", GRANT)
    place = {"tenant": "one", "grant": GRANT, "generation": 7, "kind": "rt", "key": key}
    sealed, right = vaults.seal(TOKEN, **place), path.read_bytes()
    path.write_bytes((directory / "2.json").read_bytes() + b" ")
    for _ in range(2):
        with pytest.raises(KeyringError, match="put it back"):
            vaults.new_keys("one", uuid4())
        with pytest.raises(KeyringError, match="put it back"):
            vaults.seal_config(TOKEN, tenant="one", scope="s")
    assert vaults.open(sealed, **place) == TOKEN
    assert vaults.new_keys("two", GRANT)
    path.write_bytes(right)
    assert vaults.new_keys("one", uuid4())


def test_a_loop_does_not_wait_for_vault(tmp_path: Path) -> None:
    """Another process has rotated, and asking Vault may take seconds: the key is fetched beside."""
    environment = {"VAULT_TOKEN": VAULT_TOKEN}
    with fake_transit() as transit:
        address = transit.address(tmp_path / "one.json")
        KeyringSource(address, environment=environment).create(Keyring.generate(OF_A_TENANT))
        running = AesVault.from_source(address, environment=environment)
        KeyringSource(address, environment=environment).edit(lambda ring: ring.rotate("rt"))
        _, key = AesVault.from_source(address, environment=environment).new_keys("one", GRANT)
        place = {"tenant": "one", "grant": GRANT, "generation": 7, "kind": "rt", "key": key}

        async def sealed() -> bytes:
            return running.seal(TOKEN, **place)

        transit.asked.clear()
        with pytest.raises(KeyringError, match="being fetched"):
            asyncio.run(sealed())
        wait_until(lambda: len(running.keyring.keys) == 4)
        assert asyncio.run(sealed())


def test_a_tenants_keyring_may_be_wrapped_by_vault(directory: Path) -> None:
    environment = {"VAULT_TOKEN": VAULT_TOKEN}
    with fake_transit() as transit:
        address = transit.address(directory / "wrapped.json")
        KeyringSource(address, environment=environment).create(Keyring.generate(OF_A_TENANT))

        def open_(where: str) -> AesVault:
            return AesVault.from_source(where, environment=environment)

        transit.sealed = True
        shared = AesVault.from_source(directory / "shared.json")
        vaults = TenantVaults(shared, {"one": address}, open_=open_)
        assert "sealed" in vaults.closed()["one"]
        assert vaults.new_keys("five", GRANT)


def test_only_what_a_tenant_may_have_is_made_for_it() -> None:
    ring = Keyring.generate(OF_A_TENANT)
    assert {key.purpose for key in ring.keys} == OF_A_TENANT == set(Purpose) - {Purpose.FINGERPRINT}
    assert {key.state for key in ring.keys} == {KeyState.PRIMARY}


def test_a_keyring_that_is_away_is_no_error_of_the_callers(vaults: TenantVaults) -> None:
    assert issubclass(KeyringError, WorkerError)
    assert vaults.closed() == {}
