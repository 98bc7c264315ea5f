"""What is shown of an entry reads like the catalogue, not like a program's memory."""

import re

import pytest

from worker.cli.app import call
from worker.providers import load_catalogue


@pytest.fixture
def show(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def show(name):
        assert call(["providers", "show", name]) == 0
        return capsys.readouterr().out

    return show


def test_no_entry_is_shown_as_python_spells_it(show):
    for name in load_catalogue({}, allow_loopback=False).names():
        found = re.search(
            r".*(\{'|\['|: (True|False|None)$|= (True|False|None)\b).*", show(name), re.M
        )
        assert found is None, (name, found)
