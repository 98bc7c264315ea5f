"""What `evergrant compromise` and `erasure report` tell: what is meant, and what came of it."""

from __future__ import annotations

from dataclasses import asdict

from worker.bootstrap.base import Base
from worker.cli.output import counted, out, print_table, when
from worker.domain.held import LONGEST_USE
from worker.revocation import Plan, Report, Response
from worker.revocation.compromise import PlanLine, Stopped

_SHOWN = 10  # siblings by id; the rest is counted
# At the provider it is over; whatever else came of a grant, somebody has to know.
ENDED = frozenset({"revoked", "replaced", "nothing_held"})
EFFECTS = {
    "token": "ends the tokens, one by one",
    "refresh_token": "ends the refresh token; issued access tokens live out their time",
    "pair": "ends refresh token and access tokens",
    "grant": "ends every token of the consent",
    "app": "ends the account's whole consent to the client",
    "": "offers no request",
    None: "cannot be told: the connection is not known any more",
}


def print_plan(base: Base, plan: Plan, response: Response) -> None:
    if not plan.grants:
        out.print("no living grant is meant; nothing to do")
        return
    out.print(f"concerned: {counted(plan.grants, 'grant')} of {counted(plan.users, 'user')}")
    last = "then" if response is Response.REPLACE else "the_provider"
    rows = [{**asdict(line), last: _line(base, line, response)} for line in plan.lines]
    print_table(rows, ["connection", "provider", "grants", "users", last], empty="")
    if plan.siblings and response is Response.REVOKE:
        ended = counted(len(plan.siblings), "living grant")
        out.print(f"\nthe provider ends {ended} besides, that nobody has named:")
        for one in plan.siblings[:_SHOWN]:
            place = f"{one.key.tenant}/{one.key.connection}"
            out.print(f"  {one.id}  {place}  {one.user_id or one.key.part}", markup=False)
        if (more := len(plan.siblings) - _SHOWN) > 0:
            out.print(f"  and {more} more")


def _line(base: Base, line: PlanLine, response: Response) -> str:
    if response is Response.REVOKE:
        place = f"; by hand: {line.by_hand}" if not line.effect and line.by_hand else ""
        return f"{EFFECTS[line.effect]}{place}"
    left = line.grants - line.replaceable
    said = f"{line.replaceable} renewed"
    if left:
        said += f", {left} cannot be and handed out no more"
    return f"{said}; old tokens {_old_tokens(base, line)}"


def _old_tokens(base: Base, line: PlanLine) -> str:
    """How long what has leaked works on at the provider."""
    if line.replaceable == line.grants and _entry_ends_old(base, line.provider):
        return "end with the renewal"
    if line.last_end is None:
        return "may live on at the provider: revoke them to end that"
    return f"live on at the provider, the last one ends {when(line.last_end)}"


def _entry_ends_old(base: Base, provider: str) -> bool:
    known = provider in base.catalogue.names()
    return known and base.catalogue[provider].lifetimes.access_after_refresh == "0s"


def print_stopped(stopped: Stopped) -> None:
    minutes = int(LONGEST_USE.total_seconds() // 60)
    out.print(
        f"\nstopped {counted(len(stopped.grants), 'grant')}: none of these access tokens is handed "
        f"out any more. An app that holds one asks again within {minutes} minutes."
    )


def print_report(report: Report) -> None:
    """One line for each connection and outcome, then who has to do what by hand."""
    rows = [asdict(line) for line in report.lines]
    print_table(rows, ["connection", "provider", "outcome", "grants"], empty="")
    for line in report.lines:
        if line.outcome not in ENDED and line.by_hand:
            out.print(f"→ {line.grants} of {line.connection} by hand: {line.by_hand}", markup=False)
        if line.outcome == "not_replaced":
            out.print(
                f"→ {line.grants} of {line.connection} cannot be renewed: they are handed out no "
                "more, but live on at the provider until they end; revoke them (without --replace)",
                markup=False,
            )
    if report.pending:
        out.print(
            f"{report.pending} of {report.grants} are still pending, because a provider or the "
            "worker is busy or away: it is tried again for seven days. Look again: evergrant "
            "erasure report --since 2h",
        )
