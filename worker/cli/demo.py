"""`evergrant demo`: the whole product at work against a rehearsal tenant, in under a minute."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from worker.cli.demo_app import App, Reads, Subject
from worker.cli.demo_product import Numbers, Product, running
from worker.cli.demo_view import Plain, Screen, View
from worker.cli.output import EXIT_FAILED, Json, err, print_json
from worker.client import TokenClient
from worker.domain.errors import ConfigurationError
from worker.rehearsal import RunningStage, StageSettings, rehearsal, webhooks, write_config
from worker.rehearsal.config import TENANT

DIRECTORY = Path(".evergrant-demo")
LIFETIME = 8.0  # seconds that an access token lives here; at Google it is an hour
_MARK = ".evergrant-demo"  # in a directory that we made, and may therefore wipe

_PEOPLE = ("rosa", "emil", "noor")
_TROUBLED = "oauth2"  # the provider that misbehaves for a while
_TROUBLED_LIFETIME = 16.0
_LEAVER = "emil"  # withdraws his consent at …
_LEFT = "google-oauth2"


@dataclass(slots=True)
class Play:
    """One run: what is on stage, and what has happened so far."""

    stage: RunningStage
    product: Product
    app: App
    view: View
    seconds: float
    subjects: dict[tuple[str, str], Subject] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def run(self) -> None:
        """Follow the timeline; look at everything four times a second."""
        scenes = self._timeline()
        self.app.start()
        try:
            self._follow(scenes)
        finally:
            self.app.stop()

    def _follow(self, scenes: list[tuple[float, str, Callable[[], None]]]) -> None:
        while (elapsed := time.monotonic() - self.began) < self.seconds:
            while scenes and scenes[0][0] <= elapsed:
                _, told, act = scenes.pop(0)
                self.view.tell(elapsed, told)
                act()
            self.view.show(elapsed, self.seconds, rows_of(self))
            time.sleep(0.25)

    def _timeline(self) -> list[tuple[float, str, Callable[[], None]]]:
        about = self.stage.about()
        logins = [
            (0.5 + 0.1 * at, f"{person} logs in through {connection}",
             lambda c=connection, p=person, f=facts: self._login(c, p, f, about))
            for at, (person, (connection, facts)) in enumerate(
                (person, pair) for person in _PEOPLE for pair in about["connections"].items()
            )
        ]  # fmt: skip
        provider = about["connections"]["acme-tracker"]["provider"]
        trouble = self.seconds * 0.30
        return sorted(
            [
                *logins,
                (4.0, "a directory sync at acme-workspace",
                 lambda: self.stage.do("directory_sync", name="acme-workspace")),
                (trouble, f"{provider} answers 502 with HTML, for a second and a half",
                 lambda: self.stage.do("faults", provider=provider, profile="html_502",
                                       for_seconds=1.5)),
                (6.0, f"{_LEAVER} withdraws consent at {_LEFT}", self._withdraw),
            ],
            key=lambda scene: scene[0],
        )  # fmt: skip

    def _login(
        self, connection: str, person: str, facts: dict[str, str], about: dict[str, Any]
    ) -> None:
        user_id = self.stage.login(connection, person)
        provider = facts["provider"]
        api = f"{about['providers'][provider]}/api/me"
        subject = Subject(user_id, connection, provider, api)
        self.subjects[(person, connection)] = subject
        self.app.works_for(subject)

    def _withdraw(self) -> None:
        self.app.knows_withdrawn(self.subjects[(_LEAVER, _LEFT)])
        self.stage.do("withdraw_consent", provider=_LEFT, subject=_LEAVER)


def demo(
    seconds: Annotated[float, typer.Option(min=15, help="How long the play lasts.")] = 35,
    as_json: Json = False,
) -> None:
    """Watch Evergrant do its whole job: a rehearsal tenant, its providers, and an app that reads.

    Tokens live for seconds here. Ends with a summary, and with 0 only if no token was stale and
    no grant was lost.
    """
    directory = _directory()
    view: View = Screen() if err.is_terminal and not as_json else Plain(quiet=as_json)
    lifetimes = {"*": LIFETIME, _TROUBLED: _TROUBLED_LIFETIME}
    with ExitStack() as stack:
        view.tell(0, "starting the rehearsal tenant and Evergrant")
        stage = stack.enter_context(rehearsal(StageSettings(lifetimes=lifetimes, pace=0.2)))
        config = write_config(directory / "evergrant.toml", stage.stage)
        product = stack.enter_context(running(directory, _settings(config)))
        stage.do("send_to", **webhooks(product.url))
        tokens = stack.enter_context(TokenClient(product.url, product.api_key, tenant=TENANT))
        play = Play(stage, product, App(tokens), view, seconds)
        with view:
            play.run()
        told = summary(play)
    print_json(told) if as_json else view.conclude(told)
    if not told["ok"]:
        raise typer.Exit(EXIT_FAILED)


def _settings(config: Path) -> dict[str, str]:
    """All that tells a rehearsal from the real thing: an address, and shorter times."""
    return {
        "EVERGRANT_CONFIG": str(config.absolute()),
        "EVERGRANT_ALLOW_LOOPBACK": "1",
        "EVERGRANT_TICK": "0.25",
        "EVERGRANT_CONFIRM_AFTER": "5",
    }


def _directory() -> Path:
    """An empty one; what an earlier demo left goes, anything else stays."""
    mark = DIRECTORY / _MARK
    if DIRECTORY.exists() and not mark.exists() and any(DIRECTORY.iterdir()):
        raise ConfigurationError(f"{DIRECTORY}/ is not a demo's: move it away first")
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    DIRECTORY.mkdir(mode=0o700)
    mark.touch()
    return DIRECTORY.absolute()


def rows_of(play: Play) -> list[dict[str, Any]]:
    """The table: a row per provider."""
    numbers, status = play.product.numbers(), play.product.status()
    return [_row(line, numbers, play.app.reads.get(line["provider"])) for line in
            status.get("providers", [])]  # fmt: skip


def _row(line: dict[str, Any], numbers: Numbers, reads: Reads | None) -> dict[str, Any]:
    provider, seen = line["provider"], reads or Reads()
    others = {v: n for (p, v), n in numbers.renewals.items() if p == provider and v != "renewed"}
    return {
        "provider": provider,
        "grants": line["grants"],
        "valid": line["valid"],
        "renewals": numbers.renewed(provider),
        "next_due": line["next_due"],
        "other_verdicts": " ".join(f"{n}× {verdict}" for verdict, n in sorted(others.items())),
        "reads": seen.fresh,
        "stale": seen.stale,
        "need_login": line["needs_reauth"],
    }


def summary(play: Play) -> dict[str, Any]:
    """What happened, and whether it was right."""
    rows, numbers = rows_of(play), play.product.numbers()
    ledger = play.stage.ledger()["total"]
    leaver = play.subjects[(_LEAVER, _LEFT)]
    state = play.product.grant_states(TENANT, leaver.user_id).get(_LEFT, "missing")
    told: dict[str, Any] = {
        "seconds": round(time.monotonic() - play.began, 1),
        "events": numbers.events,
        "pulls": numbers.pulls,
        "grants": sum(row["grants"] for row in rows),
        "renewals": {row["provider"]: row["renewals"] for row in rows},
        "reads": sum(reads.fresh for reads in play.app.reads.values()),
        "stale_reads": sum(reads.stale for reads in play.app.reads.values()),
        "lost_grants": sum(row["need_login"] for row in rows)
        - (state == "needs_reauth")
        + ledger["families_lost"],
        "lateness_p50_s": _rounded(numbers.late(0.5)),
        "lateness_p99_s": _rounded(numbers.late(0.99)),
        "withdrawn_user": state,
        "app": {name: asdict(reads) for name, reads in sorted(play.app.reads.items())},
        "provider_ledger": ledger,
        "log": str(play.product.log),
    }
    told["problems"] = problems_of(told)
    told["ok"] = not told["problems"]
    return told


def problems_of(told: dict[str, Any]) -> list[str]:
    """Why a run must not end with 0."""
    never = [name for name, count in told["renewals"].items() if not count]
    wrong = [
        (told["stale_reads"], f"{told['stale_reads']} stale reads"),
        (told["lost_grants"], f"{told['lost_grants']} lost grants"),
        (never, f"never renewed: {', '.join(never)}"),
        (not told["renewals"], "no grant at all"),
        (not told["reads"], "the app read nothing"),
        (
            told["withdrawn_user"] != "needs_reauth",
            f"the user who withdrew is {told['withdrawn_user']}, not needs_reauth",
        ),
    ]
    return [text for bad, text in wrong if bad]


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
