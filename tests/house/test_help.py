"""Every command explains itself."""

from __future__ import annotations

import pytest
from typer.main import get_command

from worker.cli.app import app, call


def every_command(command=None, path=()):
    command = command or get_command(app)
    for name, child in sorted(getattr(command, "commands", {}).items()):
        yield (*path, name)
        yield from every_command(child, (*path, name))


@pytest.mark.parametrize("path", list(every_command()), ids=" ".join)
def test_a_command_explains_itself_and_its_options(path, capsys):
    """Help is markup: a bracket that is not meant as such would end it half-way."""
    assert call([*path, "--help"]) == 0
    shown = capsys.readouterr().out
    assert " ".join(path) in shown
