"""How the demo looks: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from worker.cli.output import counted, err, out, print_marked

Row = dict[str, Any]
_COLUMNS = ("provider", "grants", "valid", "renewals", "next renewal", "other verdicts",
            "reads", "stale", "need login")  # fmt: skip


class View(Protocol):
    """What the play is shown on."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def tell(self, at: float, what: str) -> None:
        """Something happens on the stage."""

    def show(self, at: float, of: float, rows: list[Row]) -> None:
        """How things stand."""

    def conclude(self, told: dict[str, Any]) -> None: ...


class Plain:
    """A line for each event, and one for everything now and then."""

    def __init__(self, *, quiet: bool = False, every: float = 5.0) -> None:
        self._quiet, self._every, self._next = quiet, every, every

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_ended: object) -> None:
        return None

    def tell(self, at: float, what: str) -> None:
        if not self._quiet:
            err.print(f"{at:5.1f} s  {what}", markup=False)

    def show(self, at: float, of: float, rows: list[Row]) -> None:
        if at >= self._next:
            self._next += self._every
            done, reads = (sum(row[key] for row in rows) for key in ("renewals", "reads"))
            stale = sum(row["stale"] for row in rows)
            self.tell(
                at,
                f"{counted(len(rows), 'provider')}, {counted(done, 'renewal')},"
                f" {counted(reads, 'read')}, {stale} stale",
            )

    def conclude(self, told: dict[str, Any]) -> None:
        conclude(told)


class Screen:
    """Everything in one place, redrawn."""

    def __init__(self) -> None:
        self._told: deque[str] = deque(maxlen=6)
        self._live = Live(console=err, refresh_per_second=4, transient=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_ended: object) -> None:
        self._live.stop()

    def tell(self, at: float, what: str) -> None:
        self._told.append(f"{at:5.1f} s  {what}")
        if not self._live.is_started:
            err.print(self._told[-1], markup=False)

    def show(self, at: float, of: float, rows: list[Row]) -> None:
        title = f"Evergrant against its rehearsal tenant · {at:.0f} of {of:.0f} s"
        told = Text("\n".join(self._told), style="dim")
        self._live.update(Panel(Group(_table(rows), Text(), told), title=title))

    def conclude(self, told: dict[str, Any]) -> None:
        conclude(told)


def _table(rows: list[Row]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in _COLUMNS:
        left = column in ("provider", "next renewal", "other verdicts")
        table.add_column(column, justify="left" if left else "right")
    for row in rows:
        style = "bold red" if row["stale"] else ""
        table.add_row(
            row["provider"],
            str(row["grants"]),
            str(row["valid"]),
            str(row["renewals"]),
            _until(row["next_due"]),
            row["other_verdicts"],
            str(row["reads"]),
            str(row["stale"]),
            str(row["need_login"]),
            style=style,
        )
    return table


def _until(moment: str | None) -> str:
    if moment is None:
        return "–"
    return f"{(datetime.fromisoformat(moment) - datetime.now(UTC)).total_seconds():+.1f} s"


def conclude(told: dict[str, Any]) -> None:
    """The summary, for people."""
    renewals = ", ".join(f"{name} {count}" for name, count in sorted(told["renewals"].items()))
    lines = {
        "events received": told["events"],
        "pulls from Auth0": told["pulls"],
        "grants": told["grants"],
        "renewals": f"{sum(told['renewals'].values())} ({renewals})",
        "tokens read": f"{told['reads']}, stale {told['stale_reads']}",
        "grants lost": told["lost_grants"],
        "lateness": f"p50 {told['lateness_p50_s']} s, p99 {told['lateness_p99_s']} s",
        "user who withdrew": told["withdrawn_user"],
    }
    out.print()
    for name, value in lines.items():
        out.print(f"{name:<18} {value}", markup=False)
    if told["ok"]:
        out.print("Nothing was stale and nothing was lost.", style="bold green")
        return
    for problem in told["problems"]:
        print_marked("wrong ", problem, style="bold red")
    out.print(f"log: {told['log']}", markup=False)
