"""Progress on a terminal, on standard error; nothing for programs and pipes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.progress import BarColumn, MofNCompleteColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar

from worker.auth0.exports import ExportJob
from worker.cli.output import err
from worker.sync import Compared, Progress


@contextmanager
def progress_bar(what: str, *, quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """How many of how many, at which rate of which is allowed, and how long it will take."""
    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Bar(*columns, console=err, disable=quiet, transient=True) as bar:
        task = bar.add_task(what, total=None, note="")

        def report(progress: Progress) -> None:
            bar.update(task, total=progress.total, completed=progress.passed, note=_note(progress))

        yield report


@contextmanager
def export_bar() -> Iterator[Callable[[ExportJob], None]]:
    with Bar(TextColumn("Auth0 exports the list"), BarColumn(), TaskProgressColumn(), console=err,
             transient=True) as bar:  # fmt: skip
        task = bar.add_task("export", total=100)
        yield lambda job: bar.update(task, completed=job.percent or 0)


@contextmanager
def spinner(what: str, *, quiet: bool) -> Iterator[Callable[[Compared], None]]:
    with Bar(TextColumn("{task.completed} {task.description}"), console=err, disable=quiet,
             transient=True) as bar:  # fmt: skip
        task = bar.add_task(what, total=None)
        yield lambda found: bar.update(task, completed=found.read)


def _note(progress: Progress) -> str:
    eta = f", {_lasting(progress.eta)} left" if progress.eta else ""
    trouble = f", waiting: {progress.trouble}" if progress.trouble else ""
    failed = f", {len(progress.failed)} failed" if progress.failed else ""
    return f"{progress.rate:.1f}/s of {progress.ceiling:.1f}/s allowed{eta}{failed}{trouble}"


def _lasting(length: timedelta) -> str:
    seconds = round(length.total_seconds())
    if seconds < 120:
        return f"{seconds} s"
    minutes, hours = seconds // 60, seconds // 3600
    return f"{minutes} min" if minutes < 120 else f"{hours} h {minutes % 60:02} min"
