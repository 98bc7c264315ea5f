"""All commands in one tree, and the one place where an error becomes a line and an exit code."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

import typer

from worker import __version__
from worker.cli import run
from worker.cli.output import EXIT_FAILED, err, exit_code, explain, print_marked
from worker.domain.errors import ConfigurationError, WorkerError

_RUN: dict[str, Callable[..., None]] = {
    "up": run.up,
    "web": run.web,
    "worker": run.worker,
    "scheduler": run.scheduler,
    "flower": run.flower,
    "migrate": run.migrate,
}
# Imported when named, or all for `--help`: they bring the store, and `up` should stay small.
_ELSEWHERE: dict[str, tuple[str, str]] = {
    "demo": ("worker.cli.demo:demo", "Begin"),
    "init": ("worker.cli.init:init", "Begin"),
    "rehearsal": ("worker.cli.rehearsal:rehearsal", "Begin"),
    "doctor": ("worker.cli.doctor:doctor", "Look"),
    "status": ("worker.cli.status:status", "Look"),
    "plan": ("worker.cli.plan:plan", "Look"),
    "grants": ("worker.cli.grants:grants", "Look"),
    "tokens": ("worker.cli.grants:tokens", "Look"),
    "events": ("worker.cli.events:events", "Look"),
    "actions": ("worker.cli.actions:actions", "Look"),
    "providers": ("worker.cli.providers:providers", "Look"),
    "connections": ("worker.cli.connections:connections", "Look"),
    "sync": ("worker.cli.sync:sync", "Work"),
    "compromise": ("worker.cli.compromise:compromise", "Work"),
    "erasure": ("worker.cli.giving_up:erasure", "Look"),
    "audit": ("worker.cli.audit:audit", "Look"),
    "keys": ("worker.cli.keys:keys", "Keys"),
    "api-keys": ("worker.cli.keys:api_keys", "Keys"),
}


def build(named: str | None = None) -> typer.Typer:
    """The tree; with `named`, only as much of it as that command needs."""
    app = typer.Typer(
        name="evergrant",
        help="Keeps the third-party tokens that Auth0 collects alive, and hands them out fresh.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_root)
    for name, command in _RUN.items():
        app.command(name, rich_help_panel="Run")(command)
    if named not in _RUN:
        for name in [named] if named in _ELSEWHERE else _ELSEWHERE:
            _add(app, name)
    return app


def _add(app: typer.Typer, name: str) -> None:
    place, panel = _ELSEWHERE[name]
    module, _, attribute = place.partition(":")
    thing: Any = getattr(importlib.import_module(module), attribute)
    if isinstance(thing, typer.Typer):
        app.add_typer(thing, name=name, rich_help_panel=panel)
    else:
        app.command(name, rich_help_panel=panel)(thing)


def _root(version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    if version:
        typer.echo(f"evergrant {__version__}")
        raise typer.Exit


def main() -> None:
    """The console script."""
    sys.exit(call(sys.argv[1:]))


def call(arguments: list[str]) -> int:
    """Run one command; returns the exit code. Never a traceback for what has a name."""
    named = next((word for word in arguments if not word.startswith("-")), None)
    try:
        _refuse_what_is_no_text(arguments)
        build(named)(arguments)
    except WorkerError as error:
        explain(error)
        return exit_code(error)
    except BrokenPipeError:  # `evergrant … | head`
        return 0
    except OSError as error:
        if error.filename is None:  # of no place that could be named
            raise
        told = f"{error.filename}: {error.strerror}"
        print_marked("error", told, style="bold red", to=err)
        return EXIT_FAILED
    except KeyboardInterrupt:
        err.print("stopped")
        return 130
    except SystemExit as done:  # how typer ends, usage errors included
        return done.code if isinstance(done.code, int) else int(bool(done.code))
    return 0


def _refuse_what_is_no_text(arguments: list[str]) -> None:
    """What came as other bytes could neither be printed nor looked for."""
    for word in arguments:
        if not word.isascii() and any("\ud800" <= letter <= "\udfff" for letter in word):
            raise ConfigurationError(f"{word!a}: not text in UTF-8", code="no_text")


def __getattr__(name: str) -> typer.Typer:
    """`app`: the whole tree, for those who look at all of it (documentation, completion)."""
    if name == "app":
        return build()
    raise AttributeError(name)
