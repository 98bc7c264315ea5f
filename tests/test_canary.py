"""A hunt that could miss would prove nothing: each disguise is found."""

from __future__ import annotations

import base64
import gzip
import json
import sqlite3
import zlib
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, quote_plus, urlencode

import pytest

from tests.canary import canary, hunt, hunt_bytes

CANARY = canary("refresh")

DISGUISES: dict[str, Callable[[str], bytes]] = {
    "raw": str.encode,
    "in a log line": lambda token: f"2026 INFO token={token} done".encode(),
    "JSON": lambda token: json.dumps({"refresh_token": token}).encode(),
    "JSON, not ASCII": lambda token: json.dumps({"t": token}, ensure_ascii=False).encode(),
    "JSON in JSON": lambda token: json.dumps({"body": json.dumps({"t": token})}).encode(),
    "percent": lambda token: quote(token, safe="").encode(),
    "plus": lambda token: quote_plus(token).encode(),
    "form": lambda token: urlencode({"refresh_token": token}).encode(),
    "hex": lambda token: token.encode().hex().encode(),
    "HEX": lambda token: token.encode().hex().upper().encode(),
    "base64, offset 0": lambda token: base64.b64encode(token.encode() + b"tail"),
    "base64, offset 1": lambda token: base64.b64encode(b"x" + token.encode() + b"tail"),
    "base64, offset 2": lambda token: base64.b64encode(b"xy" + token.encode() + b"t"),
    "base64url": lambda token: base64.urlsafe_b64encode(b"user:" + token.encode()),
    "repr of bytes": lambda token: repr(token.encode()).encode(),
    "UTF-16": lambda token: token.encode("utf-16"),
    "zlib": lambda token: b"head" + zlib.compress(b"x" * 500 + token.encode()) + b"tail",
    "gzip": lambda token: gzip.compress(json.dumps([token]).encode()),
    "gzip, cut": lambda token: gzip.compress(token.encode() * 50, mtime=0)[:-20],
    "zlib in gzip": lambda token: gzip.compress(b"--" + zlib.compress(token.encode())),
}


@pytest.mark.parametrize("disguise", DISGUISES.values(), ids=DISGUISES)
def test_a_canary_is_found_in_every_disguise(disguise: Callable[[str], bytes]) -> None:
    hits = hunt_bytes([canary("other"), CANARY], disguise(CANARY), "log")
    assert {hit.label for hit in hits} == {"refresh"}


@pytest.mark.parametrize("disguise", DISGUISES.values(), ids=DISGUISES)
def test_another_canary_is_not_taken_for_it(disguise: Callable[[str], bytes]) -> None:
    assert hunt_bytes([canary("refresh")], disguise(CANARY)) == []


def test_a_hit_does_not_repeat_the_secret() -> None:
    assert CANARY not in repr(hunt_bytes([CANARY], CANARY.encode()))


def test_it_is_found_in_a_database_and_its_write_ahead_log(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "x.db")
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("CREATE TABLE t (v)")
    database.commit()
    database.execute("INSERT INTO t VALUES (?)", [CANARY])
    database.commit()
    assert [Path(hit.where).name for hit in hunt([CANARY], [tmp_path])] == ["x.db-wal"]
    database.close()
    assert [Path(hit.where).name for hit in hunt([CANARY], [tmp_path])] == ["x.db"]


def test_a_hunt_in_the_wrong_place_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        hunt([CANARY], [tmp_path / "none"])
    with pytest.raises(ValueError):
        hunt([], [tmp_path])
