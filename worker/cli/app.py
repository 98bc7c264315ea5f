"""All commands in one tree, and the one place where an error becomes a line and an exit code."""

from __future__ import annotations

import sys

import click
import typer

from worker import __version__
from worker.cli import run
from worker.cli.output import EXIT_USAGE, err, exit_code, explain
from worker.domain.errors import WorkerError

app = typer.Typer(
    name="evergrant",
    help="Keeps the third-party tokens that Auth0 collects alive, and hands them out fresh.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    if version:
        typer.echo(f"evergrant {__version__}")
        raise typer.Exit


for command in (run.up, run.web, run.worker, run.scheduler, run.flower, run.migrate):
    app.command(rich_help_panel="Run")(command)


def main() -> None:
    """The console script."""
    sys.exit(call(sys.argv[1:]))


def call(arguments: list[str]) -> int:
    """Run one command; returns the exit code. Never a traceback for what has a name."""
    try:
        code = app(arguments, standalone_mode=False)
    except WorkerError as error:
        explain(error)
        return exit_code(error)
    except click.UsageError as error:
        error.show()
        return EXIT_USAGE
    except click.exceptions.Exit as done:
        return done.exit_code
    except (KeyboardInterrupt, click.Abort):
        err.print("stopped")
        return 130
    except BrokenPipeError:  # `evergrant … | head`
        return 0
    return code if isinstance(code, int) else 0
