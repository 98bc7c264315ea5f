"""How commands speak: tables for people, JSON for programs, errors that say what to do."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from worker.domain.errors import (
    ConfigurationError,
    NotFoundError,
    TransientError,
    WorkerError,
)
from worker.domain.secret import Secret

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Tenant = Annotated[
    str | None, typer.Option("--tenant", "-t", help="Which tenant; needed when there are several.")
]

HIGHEST_ID = 2**63 - 1  # that a database can be asked for
LONGEST_DAYS = 36_500  # what is longer is a slip, and no calendar holds its end

EXIT_FAILED, EXIT_USAGE, EXIT_NOT_FOUND, EXIT_TRY_LATER = 1, 2, 3, 75  # 75: sysexits EX_TEMPFAIL
EXIT_STOPPED = 130  # ^C, as shells count it

_PIPED = 240  # columns where nobody looks, so that `| grep` finds whole ids

# What is printed is data, and shown as it is: a user's id may be `google-oauth2|[/b]`, or hold
# `:key:`. Our own words that have a colour ask for markup themselves.
out = Console(
    highlight=False,
    markup=False,
    emoji=False,
    soft_wrap=True,
    width=None if sys.stdout.isatty() else _PIPED,
)
err = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def print_secret(secret: str) -> None:
    """A token, byte for byte: a console would wrap it, and drop what it takes for control."""
    sys.stdout.write(f"{secret}\n")


def print_marked(mark: str, told: str, *, style: str, to: Console = out) -> None:
    """A word of ours in a colour, and after it what there is to tell."""
    to.print(mark, style=style, end=" ")
    to.print(told)


def print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, default=plain, ensure_ascii=False, indent=2) + "\n")


def plain(value: object) -> object:
    """What JSON cannot say by itself. A `Secret` stays blank."""
    for kind, said in _SAID.items():
        if isinstance(value, kind):
            return said(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return str(value)


_SAID: dict[type, Callable[[Any], object]] = {
    datetime: lambda moment: moment.astimezone(UTC).isoformat().replace("+00:00", "Z"),
    timedelta: lambda length: length.total_seconds(),
    Enum: lambda member: member.value,
    bytes: lambda raw: raw.decode("utf-8", "replace"),
    Secret: str,
    Mapping: dict,
    Set: sorted,
    tuple: list,
}


def print_table(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, empty: str, title: str = ""
) -> None:
    """Only what `columns` names; column `a_b` is headed "a b"."""
    if not rows:
        out.print(empty)
        return
    table = Table(box=None, pad_edge=False, title=title or None, title_justify="left")
    for column in columns:
        number = all(isinstance(row.get(column), int | float) for row in rows)
        whole = 36 if column == "id" and not number else None  # an id cut short is no use
        table.add_column(
            column.replace("_", " "), justify="right" if number else "left", min_width=whole
        )
    for row in rows:
        table.add_row(*(cell(row.get(column)) for column in columns))
    out.print(table)


def print_facts(facts: Mapping[str, Any]) -> None:
    """One thing, a fact a line; facts that are not there are left out."""
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        if value not in (None, "", [], {}):
            out.print(f"{name.replace('_', ' '):<{width}}  {cell(value)}")


def cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return when(value)
    if isinstance(value, Mapping):
        return ", ".join(
            f"{str(name).replace('_', ' ')} {cell(one)}" for name, one in value.items()
        )
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(map(cell, sorted(value) if isinstance(value, Set) else value))
    return str(plain(value)) if not isinstance(value, str | int | float) else str(value)


def counted(number: int, word: str) -> str:
    """ "1 grant", "2 grants"."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def when(moment: datetime, now: datetime | None = None) -> str:
    """ "in 5 min", "2 h ago": what an operator wants to know of an instant."""
    seconds = (moment - (now or datetime.now(UTC))).total_seconds()
    amount = span(abs(seconds))
    return f"in {amount}" if seconds >= 0 else f"{amount} ago"


def span(seconds: float) -> str:
    """ "90 s", "3 min": in the largest unit of which it has two."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def no_connection(known: int) -> str:
    """What stands in the place of an empty list of `known` connections."""
    if not known:
        return "no connection is known yet: `evergrant sync connections`"
    return f"none has a problem: {counted(known, 'connection')}"


def explain(error: WorkerError) -> None:
    print_marked("error", str(error), style="bold red", to=err)
    if told := advice(error):
        err.print(f"→ {told}", markup=False)


def advice(error: WorkerError) -> str:
    """What to do about it, where the message cannot say so wherever it is read."""
    return _ADVICE.get(error.code, "")


_ADVICE = {
    "store_away": (
        "is the database running and reachable from here, and does EVERGRANT_DATABASE_URL name"
        " the right host, user and password?"
    ),
    "auth0_away": (
        "does this machine reach it (DNS, firewall, a proxy), and is AUTH0_DOMAIN, or the tenant's"
        " `domain`, the right one?"
    ),
}


def exit_code(error: WorkerError) -> int:
    if isinstance(error, ConfigurationError):
        return EXIT_USAGE
    if isinstance(error, NotFoundError):
        return EXIT_NOT_FOUND
    return EXIT_TRY_LATER if isinstance(error, TransientError) else EXIT_FAILED
