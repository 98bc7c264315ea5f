"""`evergrant sync …`: read a whole tenant, within its request budget."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from worker.auth0 import ManagementApi
from worker.bootstrap.base import Base
from worker.bootstrap.pulling import Reading
from worker.cli import context
from worker.cli.bars import export_bar, progress_bar, spinner
from worker.cli.one_reading import OneReading
from worker.cli.output import (
    EXIT_FAILED,
    EXIT_STOPPED,
    Json,
    Tenant,
    counted,
    err,
    out,
    print_json,
    print_table,
)
from worker.cli.user_ids import read_ids
from worker.domain.errors import ConfigurationError
from worker.store.backfills import BackfillRepository
from worker.store.rounds import RoundRepository
from worker.sync import Backfill, Compared, Progress
from worker.sync.export import export_ids

_NO_ROUND = (
    "no round was made yet; EVERGRANT_RECONCILE_HOUR says when, and `evergrant sync users` reads"
    " everybody now"
)
_LIST_IS_GOOD_FOR = 7 * 86_400.0  # seconds; who came later has come by his events

sync = typer.Typer(help="Read a whole tenant anew.", no_args_is_help=True)


@sync.command("users")
def users(
    *,
    tenant: Tenant = None,
    ids: Annotated[
        Path | None, typer.Option(help="A file of user ids, one a line; - for standard input.")
    ] = None,
    export: Annotated[
        bool, typer.Option(help="Have Auth0 list the users by an export job, not by its search.")
    ] = False,
    restart: Annotated[
        bool, typer.Option(help="From the beginning, not where it stopped.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Pull every user's tokens. Stop it with ^C and run it again: it goes on where it was.

    Examples: evergrant sync users --tenant acme
              evergrant sync users --export
              zcat acme.json.gz | evergrant sync users --ids -
    """
    if ids and export:
        raise ConfigurationError("say --ids or --export, not both")
    named = read_ids(ids) if ids else None
    seen: list[Progress] = []

    async def work(base: Base) -> Progress:
        name = context.tenant_of(base, tenant)
        exported = base.settings.data_dir / f"export-{name}.ids"
        async with OneReading(base) as reading:
            api = reading.apis[name]
            listed = await _exported(base, api, exported, anew=restart) if export else named
            backfill = _backfill(base, reading, name)
            with progress_bar("users", quiet=as_json) as bar:

                def report(progress: Progress) -> None:
                    seen[:] = [progress]
                    bar(progress)

                done = await backfill.users(listed, anew=restart, report=report)
        if export:
            exported.unlink(missing_ok=True)
        return done

    try:
        _conclude(context.run(work), "users", as_json)
    except KeyboardInterrupt:
        read = f"{seen[0].passed:,} users" if seen else "no user yet"
        err.print(
            f"stopped after {read}; the same command goes on there (--restart: from the start)"
        )
        raise typer.Exit(EXIT_STOPPED) from None


@sync.command("connections")
def connections(tenant: Tenant = None, as_json: Json = False) -> None:
    """Read every connection anew: clients, options, administrators' tokens."""

    async def work(base: Base) -> Progress:
        name = context.tenant_of(base, tenant)
        known = [config.name for config in base.connections().all(name)]
        async with OneReading(base) as reading:
            with progress_bar("connections", quiet=as_json) as bar:
                return await _backfill(base, reading, name).connections(known, report=bar)

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
    print_table(rows, columns, empty=_NO_ROUND)


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
            with spinner("compared", quiet=as_json) as report:
                return await reading.diff(name).run(None if everybody else sample, report=report)

    found = context.run(work)
    rows = [asdict(one) for one in found.differences]
    if as_json:
        print_json({"read": found.read, **_KINDS, **found.counts, "failed": list(found.failed),
                    "differences": rows})  # fmt: skip
    else:
        kinds = {**_KINDS, **found.counts}.items()
        counts = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in kinds)
        out.print(f"{counted(found.read, 'user')} compared: {counts}")
        print_table(rows, ["kind", "user_id", "connection", "why"], empty="nothing differs")
        _list_failed(found.failed)
    if found.differences or found.failed:
        raise typer.Exit(EXIT_FAILED)


_KINDS = {"missing_here": 0, "newer_upstream": 0, "orphaned_here": 0}


def _backfill(base: Base, reading: Reading, tenant: str) -> Backfill:
    return Backfill(
        reading.apis[tenant],
        reading.puller,
        checkpoint=BackfillRepository(base.engine),
        clock=base.clock,
        offload=base.offload,
    )


def _is_of_late(file: Path) -> bool:
    try:
        return time.time() - file.stat().st_mtime < _LIST_IS_GOOD_FOR
    except FileNotFoundError:
        return False


async def _exported(base: Base, api: ManagementApi, file: Path, *, anew: bool) -> Sequence[str]:
    """The list of a run that was stopped, while it is there; else a new one."""
    if anew or not await base.offload(_is_of_late, file):
        with export_bar() as report:
            await export_ids(api, file, clock=base.clock, report=report)
    return await base.offload(read_ids, file)


def _list_failed(failed: Iterable[str]) -> None:
    for one in failed:
        out.print(f"failed {one}", style="red", markup=False)


def _conclude(progress: Progress, what: str, as_json: bool) -> None:
    told: dict[str, Any] = {**asdict(progress), "failed": list(progress.failed)}
    if as_json:
        print_json(told)
    else:
        earlier = f" ({progress.before:,} of them before)" if progress.before else ""
        out.print(
            f"{progress.done:,} {what} read, {progress.gone:,} gone{earlier}"
            f" in {progress.seconds:.0f} s"
        )
        _list_failed(progress.failed)
    if progress.failed:
        raise typer.Exit(EXIT_FAILED)
