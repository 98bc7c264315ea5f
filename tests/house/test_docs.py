"""What the documents tell people to type is accepted, and what they point to is there.

`make demo` and `make test` are run as they stand by `.ci/run`; sequences with an effect are run by
the tests of their rooms. Here every other command line is parsed by the real command line.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
FENCE = re.compile(r"^```(?:console|bash|sh|shell)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for block in FENCE.findall(page.read_text()):
            lines = block.replace("\\\n", " ").splitlines()
            prompted = any(line.startswith("$ ") for line in lines)
            for line in lines:
                if not prompted or line.startswith("$ "):
                    found.append((page.relative_to(ROOT).as_posix(), line.removeprefix("$ ")))
    return found


def ours(program: str) -> list:
    lines = []
    for page, line in commands():
        for part in re.split(r"\s(?:\||&&|\|\||;)\s", line.split(" #")[0]):
            if not re.match(rf"(?:[A-Z_0-9]+=\S* )*(?:\S*/)?{program}\b", part.strip()):
                continue  # a quotation over several lines is somebody else's program
            words = shlex.split(part)
            while words and re.match(r"[A-Z_][A-Z0-9_]*=", words[0]):
                words.pop(0)
            if words and Path(words[0]).name == program:
                lines.append(pytest.param(words[1:], id=f"{page}: {' '.join(words)}"))
    return lines


@pytest.mark.parametrize("words", ours("evergrant"))
def test_the_command_line_accepts_what_a_document_shows(words):
    from worker.cli.app import app

    command = get_command(app)
    words = [w for w in words if not re.match(r"\d?[<>]", w)]
    while hasattr(command, "commands"):
        assert words, "a group needs a command"
        if words[0] in ("--help", "--version"):
            return
        assert words[0] in command.commands, f"no command {words[0]!r}"
        command = command.commands[words.pop(0)]
    command.make_context(command.name, words)


@pytest.mark.parametrize("words", ours("make"))
def test_make_has_the_target_that_a_document_shows(words):
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert next(w for w in words if "=" not in w) in targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_link_inside_the_documents_leads_somewhere(page):
    for target in LINK.findall(page.read_text()):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), target
