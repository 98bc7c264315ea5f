"""`evergrant providers …`: the catalogue, and what of it the tenant's connections use."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from worker import settings as _settings
from worker.bootstrap.base import load_entries
from worker.cli import context
from worker.cli.output import EXIT_FAILED, Json, Tenant, print_facts, print_json, print_table
from worker.store.overview import Overview

providers = typer.Typer(help="What is known about each provider.", no_args_is_help=True)


@providers.command("list")
def list_(as_json: Json = False) -> None:
    """Every entry: for which strategies, how it renews, what a refresh does to the old token."""
    catalogue = load_entries(_settings.load())
    rows = [_row(name, msgspec.to_builtins(catalogue[name])) for name in catalogue.names()]
    if as_json:
        print_json(rows)
        return
    print_table(rows, ["name", "strategies", "grant", "rotation", "lifetime"], empty="")


def _row(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "strategies": " ".join(entry.get("strategies") or []),
        "grant": entry.get("grant"),
        "rotation": entry.get("rotation"),
        "lifetime": (entry.get("lifetimes") or {}).get("access") or entry.get("access_lifetime"),
    }


@providers.command("show")
def show(name: str, as_json: Json = False) -> None:
    """One entry, whole, the operator's keys merged in."""
    entry = msgspec.to_builtins(load_entries(_settings.load())[name])
    print_json(entry) if as_json else print_facts(entry)


@providers.command("check")
def check(
    tenant: Tenant = None,
    only_bad: Annotated[bool, typer.Option("--bad", help="Only what cannot be renewed.")] = False,
    as_json: Json = False,
) -> None:
    """Which entry serves each known connection, and why one cannot be renewed."""
    with context.opened() as base:
        rows = [
            row
            for name in ([tenant] if tenant else base.settings.tenants)
            for row in connection_rows(base, name)
            if row["problem"] or not only_bad
        ]
    if as_json:
        print_json(rows)
    else:
        columns = ["tenant", "connection", "strategy", "provider", "grants", "problem"]
        print_table(rows, columns, empty="no connection is known yet: `evergrant sync connections`")
    if any(row["problem"] for row in rows):
        raise typer.Exit(EXIT_FAILED)


def connection_rows(base: Any, tenant: str) -> list[dict[str, Any]]:
    """One row per connection; `problem` says what an operator has to mend, or is empty."""
    rows = []
    counts = Overview(base.engine).grants_by_connection(tenant)
    for config in base.connections().all(tenant):
        provider = base.catalogue.resolve(config, has_refresh_token=True)
        problem = config.stopped or provider.not_renewable or ""
        if not config.enabled:
            problem = "switched off in evergrant.toml"
        rows.append(
            {
                "tenant": tenant,
                "connection": config.name,
                "strategy": config.strategy,
                "provider": provider.name,
                "grants": counts.get(config.name, 0),
                "problem": problem,
                "advice": " ".join(base.catalogue[provider.name].advice) if problem else "",
            }
        )
    return rows
