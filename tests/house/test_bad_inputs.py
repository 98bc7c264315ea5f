"""docs/bad-inputs.md tells the truth: a hundred inputs, and each names a test that is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "bad-inputs.md").read_text()
ROW = re.compile(r"^\| (\d+) \| (.+?) \| (.+) \|$", re.MULTILINE)
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)(?:\[(.+)\])?`")
ROWS = [(int(number), played) for number, _, played in ROW.findall(PAGE)]
OPEN = {48}


def test_there_are_a_hundred():
    assert [number for number, _ in ROWS] == list(range(1, 101))


@pytest.mark.parametrize(("number", "played"), ROWS, ids=str)
def test_the_test_that_plays_it_is_there(number, played):
    if number in OPEN:
        assert f"**{number}, " in PAGE, "what is open is explained"
        return
    found = TEST.fullmatch(played)
    assert found, played
    path, name, case = found.groups()
    functions, words = _of(path)
    assert name in functions
    assert case is None or case in words


@cache
def _of(path: str) -> tuple[set[str], set[str]]:
    """A file's functions, and every string and name that could be the id of a case."""
    functions, words = set(), set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            functions.add(node.name)
            words.add(node.name)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            words.add(node.value)
    return functions, words
