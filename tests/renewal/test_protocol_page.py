"""The page that says what proves what leaves out no line, and names nothing that is gone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "protocol.md").read_text()
MERGE_PAGE = (ROOT / "docs" / "merge.md").read_text()
NAME = re.compile(r"`((?:tests|worker)/[\w/.]*)(?:::(\w+))?`")
NAMED = sorted(set(NAME.findall(PAGE + MERGE_PAGE)))
LINES = [f"C{n}" for n in range(1, 23)] + [f"I{n}" for n in range(1, 26)]
LINES += [f"M{n}" for n in range(1, 10)]


@pytest.mark.parametrize(("path", "name"), NAMED, ids=[f"{p}::{n}" for p, n in NAMED])
def test_what_the_page_names_is_there(path, name):
    place = ROOT / path
    assert place.exists()
    if name:
        assert re.search(rf"^ *(?:async )?(?:def|class) {name}\b", place.read_text(), re.MULTILINE)


@pytest.mark.parametrize("line", LINES)
def test_every_line_names_its_code_and_its_test(line):
    (row,) = re.findall(rf"^\| {line} \|.*\|$", PAGE, re.MULTILINE)
    *_, code, test = [cell.strip() for cell in row.strip("|").split(" | ")]
    assert all(path.startswith("worker/") for path, _ in NAME.findall(code))
    assert all(path.startswith("tests/") for path, _ in NAME.findall(test))
    assert NAME.search(code), row
    assert NAME.search(test), row
