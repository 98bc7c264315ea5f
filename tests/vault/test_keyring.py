"""The keyring: who may read it, what it refuses, and how it changes."""

from __future__ import annotations

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from worker.domain.errors import ConfigurationError
from worker.vault import Keyring, KeyringSource, KeyState, Purpose


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "keyring.json"
    Keyring.create(found)
    return found


def test_a_new_one_is_its_owners_alone_and_never_overwrites(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(ConfigurationError, match="never overwritten"):
        Keyring.create(path)


def test_it_has_one_primary_for_each_purpose(path: Path) -> None:
    keyring = Keyring.load(path)
    assert {key.purpose for key in keyring.keys} == set(Purpose)
    assert {key.state for key in keyring.keys} == {KeyState.PRIMARY}


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o620, 0o602, 0o666])
def test_a_file_that_others_can_reach_is_refused(path: Path, mode: int) -> None:
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        Keyring.load(path)


def test_a_missing_one_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="evergrant keys create"):
        Keyring.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"format": 1, "keys": [{}]}',
        b'{"format": 1, "keys": 3}',
        b"\xff",
    ],
)
def test_what_is_no_keyring_is_refused(content: bytes) -> None:
    with pytest.raises(ConfigurationError, match="keyring"):
        Keyring.from_json(content)


@pytest.mark.parametrize("part", ["key", "id", "purpose", "check"])
def test_a_damaged_key_is_found_when_it_is_read(path: Path, part: str) -> None:
    document = json.loads(path.read_bytes())
    one, other = document["keys"][0], document["keys"][1]
    one[part], other[part] = other[part], one[part]
    with pytest.raises(ConfigurationError, match=r"damaged|keyring"):
        Keyring.from_json(json.dumps(document).encode())


def test_no_flipped_bit_of_the_file_makes_another_key(path: Path) -> None:
    """Refused, or harmless: white space and dates."""
    content, whole = path.read_bytes(), Keyring.load(path)
    for place in range(len(content)):
        changed = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        try:
            loaded = Keyring.from_json(changed)
        except ConfigurationError:
            continue
        assert [(key.id, key.purpose, key.state, key.material) for key in loaded.keys] == [
            (key.id, key.purpose, key.state, key.material) for key in whole.keys
        ]


def test_an_error_shows_no_key(path: Path) -> None:
    document = json.loads(path.read_bytes())
    document["keys"][0]["key"] = document["keys"][1]["key"]
    with pytest.raises(ConfigurationError) as caught:
        Keyring.from_json(json.dumps(document).encode())
    assert document["keys"][1]["key"] not in repr(caught.value)
    assert document["keys"][1]["key"] not in repr(Keyring.load(path))


def test_it_comes_out_of_the_environment_as_well(path: Path) -> None:
    environment = {"RING": path.read_text()}
    assert Keyring.load("env:RING", environment=environment) == Keyring.load(path)
    with pytest.raises(ConfigurationError, match="has no OTHER"):
        Keyring.load("env:OTHER", environment=environment)
    with pytest.raises(ConfigurationError, match="where it is set"):
        KeyringSource("env:RING", environment=environment).edit(lambda keyring: keyring)


@pytest.mark.parametrize("address", ["aws-kms://key/1", "gcp-kms://projects/x"])
def test_a_key_service_is_refused_by_name_with_what_is_supported(address: str) -> None:
    with pytest.raises(ConfigurationError, match="not supported; use a file path"):
        Keyring.load(address)


def test_a_process_gets_only_the_purposes_it_asks_for(path: Path) -> None:
    limited = Keyring.load(path, purposes={"at"})
    assert [key.purpose for key in limited.keys] == [Purpose.ACCESS]
    with pytest.raises(ConfigurationError, match="given no key for 'rt'"):
        limited.primary(Purpose.REFRESH)


def test_a_rotation_adds_a_primary_and_keeps_the_old_one_opening() -> None:
    before = Keyring.generate()
    after = before.rotate("rt")
    old = before.primary(Purpose.REFRESH)
    assert after.primary(Purpose.REFRESH).id != old.id
    kept = after.get(old.id)
    assert kept
    assert kept.state is KeyState.ENABLED
    assert len(after.keys) == len(before.keys) + 1


def test_the_fingerprint_key_is_not_rotated() -> None:
    with pytest.raises(ConfigurationError, match="would look new"):
        Keyring.generate().rotate("fp")


def test_a_key_is_destroyed_only_when_disabled_and_unreferenced() -> None:
    first = Keyring.generate()
    old = first.primary(Purpose.REFRESH)
    ring = first.rotate("rt")
    with pytest.raises(ConfigurationError, match="primary; rotate first"):
        first.disable(old.id)
    with pytest.raises(ConfigurationError, match="disable it first"):
        ring.destroy(old.id, references=0)
    disabled = ring.disable(old.id)
    with pytest.raises(ConfigurationError, match="still wraps 3"):
        disabled.destroy(old.id, references=3)
    assert disabled.destroy(old.id, references=0).get(old.id) is None
    assert disabled.enable(old.id) == ring


def test_editors_wait_for_each_other(path: Path) -> None:
    source = KeyringSource(str(path))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: source.edit(lambda ring: ring.add("at")), range(8)))
    assert len(Keyring.load(path).keys) == len(Purpose) + 8
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not [name for name in os.listdir(path.parent) if name.endswith(".new")]
