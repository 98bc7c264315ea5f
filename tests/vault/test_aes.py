"""Ciphertexts open for what they were sealed for, and for nothing else (I16, T14)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.domain.errors import ConfigurationError, KeyringError, TamperError
from worker.domain.grant import GrantId
from worker.domain.secret import Secret
from worker.vault import AesVault, Keyring, KeyringSource, Purpose

VAULT = AesVault(Keyring.generate())
TOKEN = Secret("ya29.canary")


@dataclass
class Sealed:
    """One sealed token, and where it belongs."""

    vault: AesVault
    place: dict[str, Any]
    bytes: bytes

    def open(self, **elsewhere: Any) -> Secret:
        return self.vault.open(self.bytes, **{**self.place, **elsewhere})


def sealed(vault: AesVault = VAULT, kind: str = "rt", grant: UUID | None = None) -> Sealed:
    grant_id = GrantId(grant or uuid4())
    access, refresh = vault.new_keys("acme", grant_id)
    key = refresh if kind == "rt" else access
    place: dict[str, Any] = {
        "tenant": "acme",
        "grant": grant_id,
        "generation": 7,
        "kind": kind,
        "key": key,
    }
    return Sealed(vault, place, vault.seal(TOKEN, **place))


@given(
    secret=st.binary(min_size=1, max_size=9000),
    tenant=st.text(max_size=40),
    generation=st.integers(0, 2**63 - 1),
    kind=st.sampled_from(["rt", "at", "bot"]),
)
def test_whatever_is_sealed_opens_again(
    secret: bytes, tenant: str, generation: int, kind: str
) -> None:
    grant = GrantId(uuid4())
    access, refresh = VAULT.new_keys(tenant, grant)
    place: dict[str, Any] = {
        "tenant": tenant,
        "grant": grant,
        "generation": generation,
        "kind": kind,
        "key": refresh if kind == "rt" else access,
    }
    closed = VAULT.seal(Secret(secret), **place)
    assert VAULT.open(closed, **place) == Secret(secret)
    assert secret not in closed or len(secret) < 4


def test_two_sealings_of_one_token_look_different() -> None:
    one = sealed()
    assert VAULT.seal(TOKEN, **one.place) != one.bytes


def test_every_flipped_byte_of_a_token_is_refused() -> None:
    one = sealed()
    for place in range(len(one.bytes)):
        changed = bytearray(one.bytes)
        changed[place] ^= 1
        with pytest.raises(TamperError):
            VAULT.open(bytes(changed), **one.place)


def test_every_flipped_byte_of_a_wrapped_key_is_refused() -> None:
    one = sealed()
    for place in range(len(one.place["key"])):
        changed = bytearray(one.place["key"])
        changed[place] ^= 1
        with pytest.raises((TamperError, KeyringError)):  # in the key id: a key nobody has
            one.open(key=bytes(changed))


@pytest.mark.parametrize("length", [0, 1, 4, 17, 32])
def test_a_cut_ciphertext_is_refused(length: int) -> None:
    one = sealed()
    with pytest.raises(TamperError):
        VAULT.open(one.bytes[:length], **one.place)
    with pytest.raises(TamperError):
        one.open(key=one.place["key"][:length])


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"tenant": "other"},
        {"grant": GrantId(uuid4())},
        {"generation": 6},
        {"generation": 8},
        {"kind": "at"},
    ],
    ids=lambda elsewhere: "-".join(elsewhere),
)
def test_it_opens_nowhere_else(elsewhere: dict[str, Any]) -> None:
    with pytest.raises(TamperError):
        sealed().open(**elsewhere)


def test_rows_swapped_between_two_grants_are_refused() -> None:
    one, other = sealed(), sealed()
    with pytest.raises(TamperError, match=str(one.place["grant"])):
        VAULT.open(other.bytes, **one.place)
    with pytest.raises(TamperError):  # with the wrapped key brought along
        VAULT.open(other.bytes, **{**one.place, "key": other.place["key"]})


def test_an_access_token_put_in_the_place_of_a_refresh_token_is_refused() -> None:
    grant = uuid4()
    access, refresh = sealed(kind="at", grant=grant), sealed(kind="rt", grant=grant)
    with pytest.raises(TamperError):
        VAULT.open(access.bytes, **refresh.place)
    with pytest.raises(TamperError):
        VAULT.open(access.bytes, **{**refresh.place, "key": access.place["key"]})


def test_kinds_of_access_tokens_are_told_apart() -> None:
    with pytest.raises(TamperError):
        sealed(kind="at").open(kind="bot")


def test_another_keyring_says_that_it_is_the_wrong_one() -> None:
    one = sealed()
    with pytest.raises(KeyringError, match="wrong one"):
        AesVault(Keyring.generate()).open(one.bytes, **one.place)


def test_a_disabled_key_says_so_and_opens_when_enabled_again() -> None:
    ring = Keyring.generate()
    one = sealed(AesVault(ring))
    old = ring.primary(Purpose.REFRESH).id
    disabled = ring.rotate("rt").disable(old)
    with pytest.raises(KeyringError, match=f"{old} is disabled"):
        AesVault(disabled).open(one.bytes, **one.place)
    assert AesVault(disabled.enable(old)).open(one.bytes, **one.place) == TOKEN


def test_a_process_without_the_refresh_key_opens_access_tokens_only() -> None:
    """I17: the API cannot open a refresh token, whatever it is asked."""
    ring = Keyring.generate()
    refresh, access = sealed(AesVault(ring), "rt"), sealed(AesVault(ring), "at")
    api = AesVault(ring.limited_to({"at"}))
    assert api.open(access.bytes, **access.place) == TOKEN
    with pytest.raises(ConfigurationError, match="given no key for 'rt'"):
        api.open(refresh.bytes, **refresh.place)
    with pytest.raises(ConfigurationError, match="'config'"):
        api.seal_config(TOKEN, tenant="acme", scope="x")
    with pytest.raises(ConfigurationError, match="'fp'"):
        api.fingerprint(TOKEN)


def test_a_rewrap_moves_the_data_key_to_the_new_primary_and_keeps_the_tokens() -> None:
    ring = Keyring.generate()
    one = sealed(AesVault(ring))
    rotated = AesVault(ring.rotate("rt"))
    where = {"tenant": one.place["tenant"], "grant": one.place["grant"]}
    moved = rotated.rewrap(one.place["key"], **where)
    assert moved != one.place["key"]
    assert rotated.rewrap(moved, **where) == moved
    old = ring.primary(Purpose.REFRESH).id
    without_old = AesVault(rotated.keyring.disable(old).destroy(old, references=0))
    assert without_old.open(one.bytes, **{**one.place, "key": moved}) == TOKEN


def test_data_keys_seal_and_open_as_their_vault_whatever_becomes_of_the_keyring(
    tmp_path: Path,
) -> None:
    path = tmp_path / "keyring.json"
    ring = Keyring.create(path)
    running, grant = AesVault.from_source(path), GrantId(uuid4())
    access, refresh = running.new_keys("acme", grant)
    whose: dict[str, Any] = {"tenant": "acme", "grant": grant}
    held = running.data_keys(**whose, access_key=access, refresh_key=refresh)
    print_ = running.fingerprint(TOKEN)
    KeyringSource(str(path)).edit(lambda ring: ring.limited_to(["config"]))
    running.primaries()  # takes the file up
    with pytest.raises((KeyringError, ConfigurationError)):
        running.data_keys(**whose, access_key=access, refresh_key=refresh)
    for kind, key in (("rt", refresh), ("at", access)):
        place: dict[str, Any] = {**whose, "generation": 8, "kind": kind, "key": key}
        closed = held.seal(TOKEN, generation=8, kind=kind)
        assert AesVault(ring).open(closed, **place) == TOKEN
        assert held.open(AesVault(ring).seal(TOKEN, **place), generation=8, kind=kind) == TOKEN
        with pytest.raises(TamperError):
            held.open(closed, generation=9, kind=kind)
    assert running.fingerprint(TOKEN) == print_


class TestConfig:
    def test_it_opens_for_its_scope_alone(self) -> None:
        closed = VAULT.seal_config(TOKEN, tenant="acme", scope="connection:acme:google")
        assert VAULT.open_config(closed, tenant="acme", scope="connection:acme:google") == TOKEN
        with pytest.raises(TamperError, match="connection:acme:other"):
            VAULT.open_config(closed, tenant="acme", scope="connection:acme:other")

    def test_every_flipped_or_missing_byte_is_refused(self) -> None:
        closed = VAULT.seal_config(TOKEN, tenant="acme", scope="s")
        for place in range(len(closed)):
            changed = bytearray(closed)
            changed[place] ^= 1
            for wrong in (bytes(changed), closed[:place]):
                with pytest.raises((TamperError, KeyringError)):
                    VAULT.open_config(wrong, tenant="acme", scope="s")

    def test_it_moves_to_a_new_primary(self) -> None:
        ring = Keyring.generate()
        closed = AesVault(ring).seal_config(TOKEN, tenant="acme", scope="s")
        rotated = AesVault(ring.rotate("config"))
        moved = rotated.reseal_config(closed, tenant="acme", scope="s")
        assert rotated.reseal_config(moved, tenant="acme", scope="s") == moved != closed
        assert rotated.open_config(moved, tenant="acme", scope="s") == TOKEN


class TestFingerprint:
    def test_it_is_the_same_for_the_same_token_under_the_same_key(self) -> None:
        assert VAULT.fingerprint(TOKEN) == VAULT.fingerprint(Secret(TOKEN.reveal()))
        assert len(VAULT.fingerprint(TOKEN)) == 16

    def test_it_says_nothing_without_the_key(self) -> None:
        assert AesVault(Keyring.generate()).fingerprint(TOKEN) != VAULT.fingerprint(TOKEN)


class TestAuthentication:
    def test_a_tag_fits_its_message_alone(self) -> None:
        tag = VAULT.authenticate(b"heads")
        assert VAULT.authentic(b"heads", tag)
        assert not VAULT.authentic(b"other", tag)
        assert not VAULT.authentic(b"heads", tag[:-1])
        assert not AesVault(Keyring.generate()).authentic(b"heads", tag)

    def test_a_tag_outlives_a_rotation(self) -> None:
        ring = Keyring.generate()
        tag = AesVault(ring).authenticate(b"heads")
        assert AesVault(ring.rotate("config")).authentic(b"heads", tag)


def test_a_cipher_that_refuses_nothing_is_found_at_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Careless:
        def __init__(self, _key: bytes) -> None: ...

        def encrypt(self, _nonce: bytes, message: bytes, _bound: bytes) -> bytes:
            return message

        decrypt = encrypt

    monkeypatch.setattr("worker.vault.aes.AESGCM", Careless)
    with pytest.raises(ConfigurationError, match="self-test"):
        AesVault(Keyring.generate())


class TestRotationUnderLoad:
    """A running process takes up a changed keyring file by itself (T16)."""

    def test_a_key_made_after_the_start_is_found(self, tmp_path: Path) -> None:
        path = tmp_path / "keyring.json"
        Keyring.create(path)
        running = AesVault.from_source(path)
        KeyringSource(str(path)).edit(lambda ring: ring.rotate("rt"))
        one = sealed(AesVault.from_source(path))
        assert running.open(one.bytes, **one.place) == TOKEN

    def test_a_limited_process_stays_limited(self, tmp_path: Path) -> None:
        path = tmp_path / "keyring.json"
        Keyring.create(path)
        api = AesVault.from_source(path, purposes={"at"})
        KeyringSource(str(path)).edit(lambda ring: ring.rotate("at").rotate("rt"))
        one = sealed(AesVault.from_source(path))
        with pytest.raises(ConfigurationError):
            api.open(one.bytes, **one.place)
        assert {key.purpose for key in api.keyring.keys} == {Purpose.ACCESS}

    def test_a_new_primary_is_used_within_a_second(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "keyring.json"
        Keyring.create(path)
        running = AesVault.from_source(path)
        rotated = KeyringSource(str(path)).edit(lambda ring: ring.rotate("rt"))
        monkeypatch.setattr("worker.vault.aes._LOOK_EVERY", 0)
        _, refresh = running.new_keys("acme", GrantId(uuid4()))
        assert refresh[1:5].hex() == rotated.primary(Purpose.REFRESH).id
