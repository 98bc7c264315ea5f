"""A keyring whose keys Vault has wrapped: who has the file alone has nothing."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event
from typing import Any
from uuid import uuid4

import pytest

from tests.vault.fake_transit import TOKEN, FakeTransit, fake_transit
from worker.domain.errors import ConfigurationError, TransientError
from worker.domain.grant import GrantId
from worker.domain.secret import Secret
from worker.vault import AesVault, Keyring, KeyringSource, Purpose, aes
from worker.vault.transit import Transit

ENVIRONMENT = {"VAULT_TOKEN": TOKEN}
GRANT = GrantId(uuid4())


@pytest.fixture
def transit() -> Iterator[FakeTransit]:
    with fake_transit() as fake:
        yield fake


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keyring.json"


@pytest.fixture
def address(transit: FakeTransit, file: Path) -> str:
    """Of a keyring that was made there."""
    at = transit.address(file)
    KeyringSource(at, environment=ENVIRONMENT).create(Keyring.generate())
    return at


def vault_at(address: str, **more: Any) -> AesVault:
    return AesVault.from_source(address, environment=ENVIRONMENT, **more)


def test_what_one_process_seals_another_opens(address: str) -> None:
    one, other = vault_at(address), vault_at(address)
    _, key = one.new_keys("acme", GRANT)
    bound: dict[str, Any] = {"tenant": "acme", "grant": GRANT, "generation": 1, "kind": "rt"}
    assert other.open(one.seal(Secret("rt-1"), key=key, **bound), key=key, **bound).text() == "rt-1"


def test_no_key_is_in_the_file(address: str, file: Path) -> None:
    keyring = KeyringSource(address, environment=ENVIRONMENT).load()
    written = file.read_text()
    for key in keyring.keys:
        material = key.material.reveal()
        assert base64.b64encode(material).decode() not in written
        assert material.hex() not in written
    assert written.count("vault:v1:") == len(keyring.keys) == len(Purpose)


def test_vault_is_asked_once_at_a_start_and_for_what_the_role_may_have(
    transit: FakeTransit, address: str
) -> None:
    transit.asked.clear()
    web = vault_at(address, purposes={"at"})
    web.new_keys  # noqa: B018 - it has none for refresh tokens
    with pytest.raises(ConfigurationError, match="no key for 'rt'"):
        web.new_keys("acme", GRANT)
    assert transit.asked == [("decrypt", 1)]
    vault_at(address, purposes=())
    assert transit.asked == [("decrypt", 1)]  # the scheduler holds none, and asks for none


def test_a_rotation_is_noticed_and_a_vault_that_is_away_meanwhile_stops_nothing(
    transit: FakeTransit, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aes, "_LOOK_EVERY", 0.0)
    running = vault_at(address)
    before = running.primaries()
    transit.rotate()  # Vault's own key, too
    KeyringSource(address, environment=ENVIRONMENT).edit(lambda ring: ring.rotate("rt"))
    transit.sealed = True
    running.new_keys("acme", GRANT)
    assert {key.id for key in running.keyring.keys} >= before
    assert len(running.keyring.keys) == len(Purpose)
    transit.sealed = False
    until = time.monotonic() + 30
    while len(running.keyring.keys) == len(Purpose):  # it is fetched beside, and nobody waits
        assert running.new_keys("acme", GRANT)
        assert time.monotonic() < until
    assert len(running.keyring.keys) == len(Purpose) + 1


def test_a_rotation_wraps_all_of_them_under_vaults_newest_version(
    transit: FakeTransit, address: str, file: Path
) -> None:
    transit.rotate()
    KeyringSource(address, environment=ENVIRONMENT).edit(lambda ring: ring.rotate("config"))
    assert "vault:v1:" not in file.read_text()
    transit.versions[0] = b"\0" * 32  # the old version is gone
    assert len(KeyringSource(address, environment=ENVIRONMENT).load().keys) == len(Purpose) + 1


def test_what_a_running_process_does_not_know_it_waits_for_while_vault_is_away(
    transit: FakeTransit, address: str
) -> None:
    """Not "the wrong keyring": another process has rotated, and this one cannot read it yet."""
    running = vault_at(address)
    rotated = KeyringSource(address, environment=ENVIRONMENT).edit(lambda r: r.rotate("rt"))
    _, key = AesVault(rotated).new_keys("acme", GRANT)
    transit.sealed = True
    with pytest.raises(TransientError, match="sealed"):
        running.rewrap(key, tenant="acme", grant=GRANT)
    transit.sealed = False
    assert running.rewrap(key, tenant="acme", grant=GRANT) == key


@pytest.mark.parametrize(
    ("wrong", "kind", "says"),
    [
        ({"sealed": True}, TransientError, "sealed"),
        ({"namespace": "team"}, ConfigurationError, "lacks `update` on transit/decrypt/evergrant"),
        ({"name": "another"}, ConfigurationError, "there is no transit/decrypt/evergrant"),
        ({"versions": [b"\1" * 32]}, ConfigurationError, "under another key"),
        ({"answers": (200, b"<html>")}, TransientError, "none of its own"),
        ({"answers": (200, b'{"data":{"batch_results":[]}}')}, TransientError, "none of its own"),
        ({"answers": (200, b'{"data":{"batch_results":[{"plaintext":7},{},{},{}]}}')},
         TransientError, "none of its own"),
        ({"answers": (307, b"")}, ConfigurationError, "active node"),
        ({"answers": (502, b"")}, TransientError, "502"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_vault_is_said_and_nothing_is_shown(
    transit: FakeTransit, address: str, wrong: dict[str, Any], kind: type[Exception], says: str
) -> None:
    for name, value in wrong.items():
        setattr(transit, name, value)
    with pytest.raises(kind, match=says) as said:
        vault_at(address)
    assert TOKEN not in str(said.value)


def test_a_vault_that_is_not_there_is_waited_for(file: Path, transit: FakeTransit) -> None:
    KeyringSource(transit.address(file), environment=ENVIRONMENT).create(Keyring.generate())
    transit.port = 9
    with pytest.raises(TransientError, match="away"):
        vault_at(transit.address(file))


def test_the_token_may_stand_in_a_file_that_an_agent_renews(address: str, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old\n")
    source = KeyringSource(address, environment={"VAULT_TOKEN": f"file:{token}"})
    with pytest.raises(ConfigurationError, match="VAULT_TOKEN has ended"):
        source.load()
    token.write_text(f"{TOKEN}\n")
    assert source.load().keys


@pytest.mark.parametrize("token", ["", "two\nlines", "file:/nowhere/token"])
def test_a_token_that_is_none_is_told(address: str, token: str) -> None:
    with pytest.raises(ConfigurationError, match="VAULT_TOKEN"):
        KeyringSource(address, environment={"VAULT_TOKEN": token}).load()


@pytest.mark.parametrize(
    "address",
    [
        "vault://vault.example",
        "vault://vault.example/transit/evergrant",
        "vault://vault.example/evergrant#/etc/keys.json",
        "vault://rosa:secret@vault.example/transit/evergrant#/etc/keys.json",
        "vault+http://vault.example/transit/evergrant#/etc/keys.json",
        "vault+http://10.0.0.1:8200/transit/evergrant#/etc/keys.json",
    ],
)
def test_an_address_that_cannot_work_or_is_not_safe_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError, match="vault"):
        KeyringSource(address, environment=ENVIRONMENT)


def test_a_file_that_is_not_wrapped_is_not_taken_for_one_that_is(
    transit: FakeTransit, file: Path
) -> None:
    Keyring.create(file)
    with pytest.raises(ConfigurationError, match="not wrapped"):
        vault_at(transit.address(file))


def test_nor_the_other_way_round(address: str, file: Path) -> None:
    with pytest.raises(ConfigurationError, match="are wrapped"):
        Keyring.load(file)


def test_keys_that_change_places_are_found(address: str, file: Path) -> None:
    document = json.loads(file.read_text())
    first, second = document["keys"][:2]
    first["wrapped"], second["wrapped"] = second["wrapped"], first["wrapped"]
    file.write_text(json.dumps(document))
    with pytest.raises(ConfigurationError, match="damaged"):
        vault_at(address)


def test_nobody_waits_for_a_rotation_that_vault_is_long_in_unwrapping(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Store threads are few, and other tenants' work is done on them too."""
    monkeypatch.setattr(aes, "_LOOK_EVERY", 0.0)
    running = vault_at(address)
    KeyringSource(address, environment=ENVIRONMENT).edit(lambda ring: ring.rotate("rt"))
    asked, go_on, answered = Event(), Event(), list[int]()
    unwrap = Transit.unwrap

    def slow(self: Transit, wrapped: Sequence[str]) -> list[bytes]:
        asked.set()
        go_on.wait(30)
        answered.append(len(wrapped))
        return unwrap(self, wrapped)

    monkeypatch.setattr(Transit, "unwrap", slow)
    assert running.new_keys("acme", GRANT)
    assert asked.wait(30)
    assert running.seal_config(Secret("s"), tenant="acme", scope="s")
    assert answered == []
    go_on.set()
    until = time.monotonic() + 30
    while len(running.keyring.keys) == len(Purpose):
        assert time.monotonic() < until
        time.sleep(0.01)
