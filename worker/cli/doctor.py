"""`evergrant doctor`: everything that breaks in the field, and what to do about each."""

from __future__ import annotations

from typing import Annotated

import typer

from worker.cli.checks import examine
from worker.cli.finding import Finding, Status
from worker.cli.output import EXIT_FAILED, Json, counted, out, print_json

_MARK = {Status.OK: "[green]ok  [/]", Status.WARN: "[yellow]warn[/]", Status.FAIL: "[red]FAIL[/]"}


def doctor(
    deep: Annotated[
        bool, typer.Option("--deep", help="Also read the whole audit log for changes.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check everything that breaks in the field: reachability, scopes, clock, keys, schema, queues,
    webhook secrets, and connections that cannot be renewed. Exit code 1 if anything fails.
    """
    findings = examine(deep=deep)
    failed = sum(finding.status is Status.FAIL for finding in findings)
    if as_json:
        print_json({"ok": not failed, "checks": findings})
    else:
        for finding in findings:
            _print(finding)
        warned = sum(finding.status is Status.WARN for finding in findings)
        out.print(f"\n{len(findings)} checks, {failed} failed, {counted(warned, 'warning')}")
    if failed:
        raise typer.Exit(EXIT_FAILED)


def _print(finding: Finding) -> None:
    out.print(_MARK[finding.status], end=" ", markup=True)
    out.print(f"{finding.name}: {finding.told}", markup=False)
    if finding.advice and finding.status is not Status.OK:
        out.print(f"     → {finding.advice}", markup=False)
