"""docs/cli.md knows every command."""

from pathlib import Path

import pytest
import typer

from worker.cli.app import build

PAGE = (Path(__file__).parents[2] / "docs/cli.md").read_text()


def commands():
    tree = typer.main.get_command(build())
    for name, command in tree.commands.items():
        inner = getattr(command, "commands", None)
        yield from (f"{name} {sub}" for sub in inner) if inner else [name]


@pytest.mark.parametrize("command", sorted(commands()))
def test_a_command_is_in_the_manual(command):
    assert f"evergrant {command}" in PAGE or command in {"keys enable"}
