"""`evergrant audit …`: whether the log is what was written, and how long it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated

import typer

from worker.bootstrap.base import Base
from worker.bootstrap.working import ANCHORS
from worker.cli import context
from worker.cli.output import (
    EXIT_FAILED,
    LONGEST_DAYS,
    Json,
    counted,
    out,
    print_facts,
    print_json,
)
from worker.domain.errors import ConfigurationError
from worker.store import retention
from worker.store.anchors import Anchors
from worker.store.audit import AuditProblem

audit = typer.Typer(help="The log of all that was done and handed out.", no_args_is_help=True)

_SHORTEST = timedelta(days=30)  # what is younger answers today's questions


@audit.command("verify")
def verify(as_json: Json = False) -> None:
    """Read the whole log and name every entry that was changed, removed, inserted or moved.

    Looks at the anchors in this machine's data directory too: run it where a worker runs.
    """
    with context.opened() as base:
        problems = problems_of(base)
        noted = len(_anchors(base).heads())
    if as_json:
        print_json({"ok": not problems, "anchors": noted, "problems": problems})
    else:
        for problem in problems:
            out.print(str(problem), markup=False)
        where = f"{noted} anchors" if noted else "no anchors here: a tail cut off would not show"
        out.print(f"{counted(len(problems), 'problem')}; {where}")
    if problems:
        raise typer.Exit(EXIT_FAILED)


@audit.command("prune")
def prune(
    older_than: Annotated[
        int, typer.Option("--older-than", max=LONGEST_DAYS, help="Days; 30 at least.")
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Drop entries older than so many days. The log is verified first, and verifies afterwards:
    a signed cut says where each chain begins now. Back the log up before.

    Example: evergrant audit prune --older-than 400
    """
    if (age := timedelta(days=older_than)) < _SHORTEST:
        raise ConfigurationError(f"--older-than {older_than}: at least {_SHORTEST.days} days")
    if not (yes or as_json):
        typer.confirm(f"Drop what is older than {older_than} days?", abort=True)
    with context.opened() as base:
        now = base.clock.now()
        pruned = retention.prune(
            base.engine,
            base.vault(),
            base.audit,
            before=now - age,
            now=now,
            actor=context.operator(),
            anchored=_anchors(base).heads(),
        )
    facts = {"entries": pruned.entries, "chains": pruned.chains}
    print_json(facts) if as_json else print_facts(facts)


def problems_of(base: Base) -> Sequence[AuditProblem]:
    """What is wrong with the log. Raises: TamperError when the anchors themselves were changed."""
    return retention.check(base.engine, base.vault(), _anchors(base).heads())


def _anchors(base: Base) -> Anchors:
    return Anchors(base.settings.data_dir / ANCHORS, base.vault())
