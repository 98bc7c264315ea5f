"""The page that says what proves what names nothing that is gone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "protocol.md").read_text()
NAMED = sorted(set(re.findall(r"`((?:tests|worker)/[\w/.]*)(?:::(\w+))?`", PAGE)))


@pytest.mark.parametrize(("path", "name"), NAMED, ids=[f"{p}::{n}" for p, n in NAMED])
def test_what_the_protocol_page_names_is_there(path, name):
    place = ROOT / path
    assert place.exists()
    if name:
        assert f"def {name}(" in place.read_text()


@pytest.mark.parametrize("line", [f"C{n}" for n in range(1, 23)])
def test_every_crash_has_its_line(line):
    assert f"| {line} |" in PAGE
