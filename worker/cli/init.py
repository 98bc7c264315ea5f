"""`evergrant init`: a configuration, a keyring, secrets, and what to do at Auth0."""

from __future__ import annotations

import base64
import os
import re
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from worker.cli.output import Json, out, print_json
from worker.domain.errors import ConfigurationError
from worker.domain.secret import Secret
from worker.settings import private_place
from worker.settings.tables import TENANT_NAME, TENANT_NAME_TOLD, TenantSettings
from worker.vault import Keyring

SCOPES = "read:users read:user_idp_tokens read:connections read:connections_options read:logs"
_PLAIN = re.compile(r"[^\s\"'\\$`#]+")  # stands in .env and in TOML as it is
_CONTAINERS = "/run/secrets"  # where Docker and Kubernetes show secrets, each as a file
_NAMES = {  # key of the tenant's table → its name in the environment; as a file in lower case
    "client_secret": "AUTH0_CLIENT_SECRET",
    "logs_authorization": "EVERGRANT_LOGS_AUTHORIZATION",
    "events_bearer": "EVERGRANT_EVENTS_BEARER",
    "actions_secret": "EVERGRANT_ACTIONS_SECRET",
}


def init(
    *,
    domain: Annotated[str | None, typer.Option(help="acme.eu.auth0.com; asked if missing.")] = None,
    client_id: Annotated[str | None, typer.Option(help="Of the M2M application.")] = None,
    client_secret: Annotated[
        str | None, typer.Option(help="Asked if missing: better not in your shell's history.")
    ] = None,
    tenant: Annotated[str, typer.Option(help="What to call the tenant here.")] = "default",
    public_url: Annotated[str, typer.Option(help="Where Auth0 reaches this machine.")] = "",
    directory: Annotated[Path, typer.Option(help="Where to write.")] = Path(),
    secrets_dir: Annotated[
        Path | None,
        typer.Option(
            help="For containers: the keyring and each secret in a file of its own there, no .env;"
            f" evergrant.toml names them {_CONTAINERS}/NAME."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write evergrant.toml, .env and a keyring; print the steps at Auth0. Overwrites nothing.

    Example: evergrant init --domain acme.eu.auth0.com --public-url https://tokens.acme.example
    """
    config, keyring = directory / "evergrant.toml", _keyring_place(directory)
    apart = {key: secrets_dir / _file(key) for key in _NAMES} if secrets_dir else {}
    if secrets_dir:
        keyring = secrets_dir / "keyring/keyring.json"
    files = [config, *(apart.values() or [directory / ".env"]), *([keyring] if keyring else [])]
    if there := [str(file) for file in files if file.exists()]:
        raise ConfigurationError(f"{', '.join(there)} exists; nothing was changed")
    domain = domain or _asked("--domain", "Auth0 domain (acme.eu.auth0.com)")
    client_id = client_id or _asked(
        "--client-id", "Client ID of the machine-to-machine application"
    )
    client_secret = client_secret or _asked("--client-secret", "Its client secret", hidden=True)
    domain = _checked(
        domain=domain, client_id=client_id, client_secret=client_secret, tenant=tenant
    )
    told = {
        "client_secret": client_secret,
        "logs_authorization": f"Bearer {secrets.token_urlsafe(32)}",
        "events_bearer": secrets.token_urlsafe(32),
        "actions_secret": "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode(),
    }
    directory.mkdir(parents=True, exist_ok=True)
    if secrets_dir:
        private_place(secrets_dir)
    if keyring:
        private_place(keyring.parent)
    _write(config, _toml(tenant, domain, client_id, apart=bool(apart)))
    for key, file in apart.items():
        _write(file, told[key] + "\n", mode=0o400)
    if not apart:
        _write(directory / ".env", _env({_NAMES[key]: value for key, value in told.items()}))
    if keyring:
        Keyring.create(keyring)
    hooks = f"{public_url or 'https://<this machine>'}/hooks/auth0/{tenant}"
    if as_json:
        print_json({"files": [str(file) for file in files], "hooks": hooks, "scopes": SCOPES})
        return
    where = {
        key: f"the content of {apart[key]}" if apart else f"the value of {name} in .env"
        for key, name in _NAMES.items()
    }
    out.print(_steps(hooks, files, where), markup=False)


def _keyring_place(directory: Path) -> Path | None:
    """Where the commands will look for it, as the environment stands; None: it is not ours to make,
    for it lies elsewhere (Vault, a variable), or there already."""
    named = os.environ.get("EVERGRANT_KEYRING", "").removeprefix("file:")
    if named:
        return None if ":" in named or Path(named).exists() else Path(named)
    data = os.environ.get("EVERGRANT_DATA_DIR")
    return (Path(data) if data else directory / ".evergrant") / "keyring.json"


def _asked(option: str, question: str, *, hidden: bool = False) -> str:
    """Of whoever sits there, or of what is piped in. Raises: ConfigurationError, neither is."""
    person = sys.stdin.isatty()
    try:
        answer: str = typer.prompt(question, hide_input=hidden and person)
    except typer.Abort:
        if person:
            raise
        typer.echo(err=True)  # the question stands there still
        why = f"nobody answers here: give {option}, or the answer on standard input"
        raise ConfigurationError(f"{why}; nothing was written") from None
    return answer


def _checked(*, domain: str, client_id: str, client_secret: str, tenant: str) -> str:
    """The bare host name. Raises: ConfigurationError, where what is written could not be read."""
    given = {"--client-id": client_id, "--client-secret": client_secret}
    for option, value in given.items():
        if not _PLAIN.fullmatch(value):
            why = "has a space or one of \" ' \\ $ ` #, which nothing of Auth0's has: copy it anew"
            raise ConfigurationError(f"{option}: {why}; nothing was written")
    if not TENANT_NAME.fullmatch(tenant):
        raise ConfigurationError(f"--tenant: {TENANT_NAME_TOLD}; nothing was written")
    try:
        return TenantSettings(domain=domain, client_id="-", client_secret=Secret("-")).domain
    except ValidationError:
        why = f"--domain: {domain!r} is no host name such as acme.eu.auth0.com"
        raise ConfigurationError(f"{why}; nothing was written") from None


def _write(path: Path, text: str, *, mode: int = 0o600) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def _file(key: str) -> str:
    return _NAMES[key].lower().removeprefix("evergrant_")


def _toml(tenant: str, domain: str, client_id: str, *, apart: bool) -> str:
    named = "\n".join(
        f'{key} = "{f"file:{_CONTAINERS}/{_file(key)}" if apart else f"env:{name}"}"'
        for key, name in _NAMES.items()
    )
    return f"""\
# Evergrant. All settings: docs/operating.md. Values "env:NAME" and "file:PATH" are read from there.

[tenants.{tenant}]
domain = "{domain}"
client_id = "{client_id}"
{named}
# plan = "enterprise"   # your Auth0 plan, for its rate limits; the free one is assumed

# What Auth0 does not know of a connection, and anything of the catalogue, can be set:
# [tenants.{tenant}.connections.my-oauth2-connection]
# required_scopes = ["files.read"]
"""


def _env(values: dict[str, str]) -> str:
    return "".join(f'{name}="{value}"\n' for name, value in values.items())


def _steps(hooks: str, files: Sequence[Path], where: Mapping[str, str]) -> str:
    by_env = any(file.name == ".env" for file in files)
    kept = ".env" if by_env else "the secrets"
    key = f"evergrant api-keys create my-app --scope read:{hooks.rpartition('/')[2]}"
    then = f"evergrant up · evergrant sync users · {key}" if by_env else "docs/deploying.md"
    return f"""\
wrote {", ".join(map(str, files))}
Back the keyring up: without it no stored token opens. Keep {kept} out of version control.

At Auth0 (https://manage.auth0.com):
 1. Applications → your machine-to-machine application → APIs → Auth0 Management API: grant
      {SCOPES}
 2. Monitoring → Streams → Create Stream → Custom Webhook
      Payload URL   {hooks}/logs
      Authorization {where["logs_authorization"]}
      Format        JSON Lines;  Filter: all
 3. Where your plan has Event Streams: Event Streams → Webhook, types user.* and connection.*
      Endpoint      {hooks}/events
      Bearer token  {where["events_bearer"]}
 4. For tokens within seconds of a login, a post-login Action (docs/snippets/action.js has it whole)
      Secrets       EVERGRANT_URL = {hooks}/actions
                    EVERGRANT_SECRET = {where["actions_secret"]}
 5. Connections that should be renewed must ask for a refresh token: `evergrant doctor` says which
    do not, and what to change.

Then: {then}
"""
