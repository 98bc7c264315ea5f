"""Two rooms leave the house: the stage, and the client that apps install."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOMS = Path(__file__).parents[2] / "worker"
# Who imports the room takes these along: each must be worth it.
MAY_IMPORT = {
    "client": {"httpx"},
    "rehearsal": {
        "cryptography",
        "httpx",
        "jwt",
        "standardwebhooks",
        "starlette",
        "uvicorn",
    },
}


def imported(path: Path) -> Iterator[str]:
    """Absolute names of what a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or ""
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 1, f"{path.name} reaches out of its room"


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_that_leaves_the_house_takes_nothing_of_it_along(room: str) -> None:
    """The client is installed alone; a stage that shared our code would share our mistakes."""
    files = sorted((ROOMS / room).rglob("*.py"))
    found = {name for path in files for name in imported(path)}
    outside = {name for name in found if not name.startswith(f"worker.{room}")}
    assert files
    assert {name.partition(".")[0] for name in outside} - sys.stdlib_module_names <= MAY_IMPORT[
        room
    ]
