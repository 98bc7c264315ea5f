"""`evergrant sync …`: read a whole tenant, within its request budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar

from worker.bootstrap.base import Base
from worker.cli import context
from worker.cli.one_reading import OneReading
from worker.cli.output import EXIT_FAILED, Json, Tenant, err, out, print_json, print_table
from worker.domain.errors import ConfigurationError
from worker.store.rounds import RoundRepository
from worker.sync import Backfill, Compared, Progress
from worker.sync.backfill import FileCheckpoint, Report

sync = typer.Typer(help="Read a whole tenant anew.", no_args_is_help=True)


@sync.command("users")
def users(
    *,
    tenant: Tenant = None,
    ids: Annotated[
        Path | None, typer.Option(help="A file of user ids, one a line; - for standard input.")
    ] = None,
    restart: Annotated[
        bool, typer.Option(help="From the beginning, not where it stopped.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Pull every user's tokens. Stop it with ^C and run it again: it goes on where it was.

    Example: evergrant sync users --tenant acme
    """
    named = _ids(ids) if ids else None

    async def work(base: Base) -> Progress:
        name = context.tenant_of(base, tenant)
        place = FileCheckpoint(base.settings.data_dir / f"sync-{name}.json")
        if restart:
            place.clear()
        async with OneReading(base) as reading:
            backfill = Backfill(reading.apis[name], reading.puller, clock=base.clock)
            with _bar("users", quiet=as_json) as report:
                done = await backfill.users(
                    named, checkpoint=place if named is None else None, report=report
                )
        if named is None:
            place.clear()
        return done

    _conclude(context.run(work), "users", as_json)


@sync.command("connections")
def connections(tenant: Tenant = None, as_json: Json = False) -> None:
    """Read every connection anew: clients, options, administrators' tokens."""

    async def work(base: Base) -> Progress:
        name = context.tenant_of(base, tenant)
        known = [config.name for config in base.connections().all(name)]
        async with OneReading(base) as reading:
            backfill = Backfill(reading.apis[name], reading.puller, clock=base.clock)
            return await backfill.connections(known)

    _conclude(context.run(work), "connections", as_json)


@sync.command("status")
def status(as_json: Json = False) -> None:
    """The nightly look at every user: how far it is, and what it found that no event had told."""
    with context.opened() as base:
        found = {name: RoundRepository(base.engine).latest(name) for name in base.settings.tenants}
    rows = [
        {"tenant": name, "began_at": one.began_at, "ended_at": one.ended_at, **_KINDS, "read": 0,
         **one.counts}
        for name, one in found.items() if one is not None
    ]  # fmt: skip
    if as_json:
        print_json(rows)
        return
    columns = ["tenant", "began_at", "ended_at", "read", *_KINDS, "failed"]
    print_table(rows, columns, empty="no round was made yet; EVERGRANT_RECONCILE_HOUR says when")


@sync.command("diff")
def diff(
    *,
    tenant: Tenant = None,
    sample: Annotated[
        int, typer.Option(min=1, max=1000, help="Users of ours, and as many who logged in last.")
    ] = 100,
    everybody: Annotated[bool, typer.Option("--all", help="Every user of the tenant.")] = False,
    as_json: Json = False,
) -> None:
    """Compare Auth0 with what we hold, and change no grant: what would a merge do?

    Counts as `evergrant_divergence` does. Ends with 1 if anything differs.
    """

    async def work(base: Base) -> Compared:
        name = context.tenant_of(base, tenant)
        async with OneReading(base) as reading:
            with _spinner("compared", quiet=as_json) as report:
                return await reading.diff(name).run(None if everybody else sample, report=report)

    found = context.run(work)
    rows = [asdict(one) for one in found.differences]
    if as_json:
        print_json({"read": found.read, **_KINDS, **found.counts, "failed": list(found.failed),
                    "differences": rows})  # fmt: skip
    else:
        counts = ", ".join(f"{count} {kind}" for kind, count in {**_KINDS, **found.counts}.items())
        out.print(f"{found.read} users compared: {counts}")
        print_table(rows, ["kind", "user_id", "connection", "why"], empty="nothing differs")
        _list_failed(found.failed)
    if found.differences or found.failed:
        raise typer.Exit(EXIT_FAILED)


_KINDS = {"missing_here": 0, "newer_upstream": 0, "orphaned_here": 0}


@contextmanager
def _spinner(what: str, *, quiet: bool) -> Iterator[Callable[[Compared], None]]:
    with Bar(TextColumn("{task.completed} {task.description}"), console=err, disable=quiet,
             transient=True) as bar:  # fmt: skip
        task = bar.add_task(what, total=None)
        yield lambda found: bar.update(task, completed=found.read)


def _list_failed(failed: Iterable[str]) -> None:
    for one in failed:
        out.print(f"failed {one}", style="red", markup=False)


def _ids(file: Path) -> list[str]:
    try:
        if str(file) == "-":
            lines: Iterable[str] = typer.get_text_stream("stdin")
        else:
            lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror}") from error
    return [line.strip() for line in lines if line.strip()]


@contextmanager
def _bar(what: str, *, quiet: bool) -> Iterator[Report]:
    """A progress bar on the terminal; nothing for programs."""
    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Bar(*columns, console=err, disable=quiet, transient=True) as bar:
        task = bar.add_task(what, total=None, note="")

        def report(progress: Progress) -> None:
            bar.update(
                task,
                total=progress.total,
                completed=progress.done + progress.gone + len(progress.failed),
                note=_note(progress),
            )

        yield report


def _note(progress: Progress) -> str:
    eta = f", {progress.eta.total_seconds():.0f} s left" if progress.eta else ""
    return f"{progress.rate:.1f}/s of {progress.ceiling:.1f}/s allowed{eta}"


def _conclude(progress: Progress, what: str, as_json: bool) -> None:
    told: dict[str, Any] = {**asdict(progress), "failed": list(progress.failed)}
    if as_json:
        print_json(told)
    else:
        out.print(f"{progress.done} {what} read, {progress.gone} gone in {progress.seconds:.0f} s")
        _list_failed(progress.failed)
    if progress.failed:
        raise typer.Exit(EXIT_FAILED)
