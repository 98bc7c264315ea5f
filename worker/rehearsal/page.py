"""The counter page: for each provider and each grant, how often a token was spent, reused, lost."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from .records import Record
from .stage import Stage

_COLUMNS: Sequence[tuple[str, str]] = (
    ("logins", "logins"),
    ("exchanges", "refreshes"),
    ("reused_in_grace", "reused in grace"),
    ("reused", "reused, refused"),
    ("most_spends", "most spends of one token"),
    ("overlaps", "overlaps"),
    ("refused", "refused"),
    ("families_lost", "families lost to reuse"),
    ("revoked_by_user", "revoked by user"),
    ("revoked_by_us", "revoked by client"),
    ("answers_lost", "answers lost"),
    ("reads", "API reads"),
    ("stale_reads", "stale reads"),
)
_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 }
td, th { padding: .2rem .6rem; text-align: right }
th { font-weight: 600; border-bottom: 1px solid #999; vertical-align: bottom; max-width: 6rem }
td:first-child, th:first-child { text-align: left } .bad { color: #b00020; font-weight: 600 }
tr:nth-child(even) { background: #f6f6f6 }
"""
_BAD = {"reused", "overlaps", "families_lost", "stale_reads"}
MOST_ROWS = 500


def page(stage: Stage) -> str:
    """The whole page."""
    ledger = stage.ledger()
    rows: dict[str, Record] = {**ledger["providers"], "all": ledger["total"]}
    grants = stage.grants()
    shown = {f"{one['provider']} · {one['subject']}": one for one in grants[:MOST_ROWS]}
    rest = f"<p>{len(grants) - MOST_ROWS} more</p>" if len(grants) > MOST_ROWS else ""
    faults = ", ".join(f"{where}: {', '.join(on)}" for where, on in ledger["faults"].items())
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Rehearsal</title>"
        f"<meta http-equiv=refresh content=2><style>{_STYLE}</style>"
        f"<h1>Rehearsal tenant</h1><p>{ledger['users']} users, {ledger['grants']} grants, "
        f"{ledger['log_records']} log records. "
        f"Faults in force: {html.escape(faults) or 'none'}.</p>"
        f"<h2>Providers</h2>{_table(rows)}<h2>Grants</h2>{_table(shown)}{rest}"
    )


def _table(rows: dict[str, Record]) -> str:
    head = "".join(f"<th>{title}</th>" for _, title in _COLUMNS)
    return f"<table><tr><th></th>{head}</tr>{''.join(_rows(rows))}</table>"


def _rows(rows: dict[str, Record]) -> Iterable[str]:
    for name, counts in rows.items():
        cells = "".join(_cell(key, counts[key]) for key, _ in _COLUMNS)
        yield f"<tr><td>{html.escape(name)}</td>{cells}</tr>"


def _cell(key: str, value: int) -> str:
    return f"<td class=bad>{value}</td>" if key in _BAD and value else f"<td>{value}</td>"
