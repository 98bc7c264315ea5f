"""`evergrant keys …`: the keyring. `evergrant api-keys …`: what apps may read."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.progress import Progress as Bar

from worker import settings as _settings
from worker.bootstrap.base import PURPOSES, Role
from worker.cli import context
from worker.cli.output import EXIT_FAILED, Json, err, out, print_facts, print_json, print_table
from worker.domain.access import Scope, parse_scope
from worker.domain.errors import NotFoundError, PermanentError
from worker.store.api_keys import ApiKeyRepository
from worker.store.rewrap import Progress, references, refuse_if_referenced
from worker.store.rewrap import rewrap as move_everything
from worker.vault import KeyringSource, KeyState, Purpose

keys = typer.Typer(help="The keyring that seals everything.", no_args_is_help=True)
api_keys = typer.Typer(help="Keys for apps that read tokens.", no_args_is_help=True)

_FOR = {
    Purpose.REFRESH: "refresh tokens",
    Purpose.ACCESS: "access tokens",
    Purpose.CONFIG: "client secrets",
    Purpose.FINGERPRINT: "fingerprints",
}


def _source() -> KeyringSource:
    return KeyringSource(_settings.load().keyring, environment=os.environ)


@keys.command("list")
def list_keys(as_json: Json = False) -> None:
    """Which keys there are, and what each is for; never a key itself."""
    rows = [
        {"id": key.id, "for": _FOR[key.purpose], "state": key.state, "created": key.created_at}
        for key in _source().load().keys
    ]
    if as_json:
        print_json(rows)
        return
    print_table(rows, ["id", "for", "state", "created"], empty="an empty keyring")


@keys.command("rotate")
def rotate(
    purpose: Annotated[
        Purpose | None, typer.Argument(help="rt, at or config; all three by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Seal with new keys from now on; the old ones go on opening what they sealed.

    Running processes notice within a second. Back the keyring up afterwards.
    """
    chosen = [purpose] if purpose else [Purpose.REFRESH, Purpose.ACCESS, Purpose.CONFIG]
    made: list[dict[str, Any]] = []
    for one in chosen:
        keyring = _source().edit(lambda ring, one=one: ring.rotate(one))  # type: ignore[misc]  # mypy: default argument of a lambda
        made.append({"for": _FOR[one], "id": keyring.primary(one).id})
    if as_json:
        print_json(made)
        return
    print_table(made, ["for", "id"], empty="")


@keys.command("rewrap")
def rewrap(as_json: Json = False) -> None:
    """Move everything that an old key sealed under the present ones, while all runs on."""
    with context.opened() as base, Bar(console=err, disable=as_json, transient=True) as bar:
        task = bar.add_task("rewrapping", total=None)

        def told(progress: Progress) -> None:
            bar.update(task, completed=progress.moved, total=progress.moved + progress.left)

        done = move_everything(base.engine, base.vault(), told=told)
    _done({"moved": done.moved, "left": done.left}, as_json)
    if done.left:
        err.print("some rows were locked: run it again")
        raise typer.Exit(EXIT_FAILED)


@keys.command("destroy")
def destroy(
    key_id: str,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Drop a disabled key for good. Refused while anything in the store still needs it."""
    with context.opened() as base:
        refuse_if_referenced(base.engine, key_id)
        if not (yes or as_json):
            typer.confirm(
                "What only this key opens is lost, backups included. Destroy?", abort=True
            )
        _source().edit(
            lambda ring: ring.destroy(key_id, references=references(base.engine)[key_id])
        )
    _done({"id": key_id, "state": "destroyed"}, as_json)


@keys.command("disable")
def disable(key_id: str, as_json: Json = False) -> None:
    """What this key sealed opens no more, until `keys enable`: the step before destroying it."""
    _source().edit(lambda ring: ring.disable(key_id))
    _done({"id": key_id, "state": KeyState.DISABLED}, as_json)


@keys.command("enable")
def enable(key_id: str, as_json: Json = False) -> None:
    """Let a disabled key open again what it sealed."""
    _source().edit(lambda ring: ring.enable(key_id))
    _done({"id": key_id, "state": KeyState.ENABLED}, as_json)


@keys.command("export")
def export(
    path: Annotated[
        str, typer.Argument(help="File, or vault://…#FILE; an existing file is refused.")
    ],
    *,
    role: Annotated[Role, typer.Option(help="Whose machine it is for.")],
    as_json: Json = False,
) -> None:
    """Write a keyring with the keys of one role only, for a machine of its own.

    Example: evergrant keys export web-keyring.json --role web
    """
    part = _source().load().limited_to(PURPOSES[role])
    KeyringSource(path, environment=os.environ).create(part)
    _done({"file": path, "for": [_FOR[p] for p in sorted(PURPOSES[role])]}, as_json)


@keys.command("move")
def move(
    to: Annotated[str, typer.Argument(help="File, or vault://HOST:PORT/MOUNT/KEY#FILE.")],
    as_json: Json = False,
) -> None:
    """Write the keyring somewhere else, wrapped by Vault or not any more, and read it back.

    Example: evergrant keys move vault://vault.example:8200/transit/evergrant#/etc/evergrant/keys.json
    """
    moved = _source().load()
    there = KeyringSource(to, environment=os.environ)
    there.create(moved)
    if there.load() != moved:
        raise PermanentError(f"{to}: reads back otherwise; do not use it", code="reads_otherwise")
    _done({"keyring": to, "keys": len(moved.keys), "next": "set EVERGRANT_KEYRING to it, start"
           " anew, and destroy the old one and its backups"}, as_json)  # fmt: skip


@api_keys.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Shows in the audit.")],
    *,
    scope: Annotated[
        str, typer.Option(help=r"\[verb,verb:]tenant\[/connection\[/user]]; `*` matches any run.")
    ] = "*",
    days: Annotated[
        int | None, typer.Option(min=1, help="Expires after; never by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a key for an app. It is shown once and cannot be shown again.

    Example: evergrant api-keys create crm --scope 'read,renew:acme/google-oauth2/*' --days 90
    """
    wanted: Scope = parse_scope(scope)
    with context.opened() as base:
        now = base.clock.now()
        expires_at = now + timedelta(days=days) if days else None
        key = ApiKeyRepository(base.engine).create(
            name, scope=wanted, now=now, expires_at=expires_at
        )
    if as_json:
        print_json({"name": name, "key": key.text(), "scope": scope, "expires_at": expires_at})
        return
    out.print(key.text(), markup=False)


@api_keys.command("list")
def list_api_keys(as_json: Json = False) -> None:
    """Names, scopes and ends; never a key."""
    with context.opened() as base:
        rows = [
            {
                "name": key.name,
                "scope": ", ".join(_spelled(scope) for scope in key.scopes),
                "expires_at": key.expires_at,
                "state": _state(key.revoked_at, key.expires_at),
            }
            for key in ApiKeyRepository(base.engine).all()
        ]
    if as_json:
        print_json(rows)
        return
    print_table(rows, ["name", "scope", "state", "expires_at"], empty="no API keys yet")


@api_keys.command("revoke")
def revoke(name: str, as_json: Json = False) -> None:
    """Refuse a key from now on (within two seconds everywhere)."""
    with context.opened() as base:
        if not ApiKeyRepository(base.engine).revoke(name, base.clock.now()):
            raise NotFoundError(f"no live API key {name!r}; `evergrant api-keys list` shows them")
    _done({"name": name, "state": "revoked"}, as_json)


def _spelled(scope: Scope) -> str:
    return f"{','.join(sorted(scope.verbs))}:{scope.tenant}/{scope.connection}/{scope.user}"


def _state(revoked_at: datetime | None, expires_at: datetime | None) -> str:
    if revoked_at:
        return "revoked"
    return "expired" if expires_at and expires_at <= datetime.now(UTC) else "live"


def _done(facts: dict[str, Any], as_json: bool) -> None:
    print_json(facts) if as_json else print_facts(facts)
