"""The part of a provider's page that says what to set at Auth0 and in evergrant.toml."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from worker.providers import templates
from worker.providers.vocabulary import Entry

_OWN_WORDS = frozenset(
    {"client_id", "token_url", "token_host", "token_dir", "auth0_domain", "login_callback"}
    | {"scope", "scope_offline", "scope_of_one_resource"}
)
_SCOPE_OF_M2M = "`read:connections_options`"


def setting_up(name: str, entry: Entry) -> str:
    """Markdown: steps in the order in which they are taken."""
    if entry.grant == "none":
        return _bullets(entry.advice)
    steps = [*_steps(entry), *(one for one in entry.advice if not _said_already(one, entry))]
    steps.append(_LOGIN if entry.subject == "refresh_token" else _LOGIN_TOKEN)
    told = "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))
    return f"{told}\n\n{_for_the_file(name, entry)}".rstrip()


_LOGIN = (
    "Let each person log in once more: a refresh token is issued at a login and at no other time. "
    "`evergrant providers check` counts who still lacks one, and names the setting."
)
_LOGIN_TOKEN = (
    "Let each person log in once: what the login brings is exchanged for a younger token as long "
    "as it lives, and by nothing else."
)


def _said_already(advice: str, entry: Entry) -> bool:
    """Advice for the terminal, where no steps stand above it."""
    asked = [f"{key}={value}" for key, value in entry.requires_login.items() if value]
    if asked and all(one in advice for one in asked):
        return True
    of_scopes = any(scope in advice for scope in entry.requires_scopes)
    return "developer keys" in advice or (of_scopes and advice.startswith(("Add ", "Ask for ")))


def _steps(entry: Entry) -> Iterator[str]:
    if entry.client_auth == "anonymous":
        yield f"Connect the app that you registered at {company(entry)}."
    else:
        yield (
            f"Register a client of your own at {company(entry)}, with the redirect URI "
            "`https://YOUR_AUTH0_DOMAIN/login/callback`, and enter its id and secret in the "
            "connection. With Auth0's developer keys (an empty client id) nothing can be renewed."
        )
    if entry.client_auth not in ("anonymous", "none"):
        yield (
            f"Grant Evergrant's Auth0 client the scope {_SCOPE_OF_M2M}, so that it can read id and "
            "secret; or set `client_id` and `client_secret` for the connection in `evergrant.toml`."
        )
    if entry.requires_scopes:
        scopes = " or ".join(f"`{scope}`" for scope in entry.requires_scopes)
        yield f"Add {scopes} to the connection's scopes: without it nothing can be renewed."
    if asked := {key: value for key, value in entry.requires_login.items() if value}:
        yield _upstream(asked)


def company(entry: Entry) -> str:
    """The name without what tells its entries apart."""
    return re.split(r",| \(| behind | through ", entry.display_name)[0]


def _upstream(asked: dict[str, str]) -> str:
    params = {"upstream_params": {key: {"value": value} for key, value in asked.items()}}
    said = " and ".join(f"`{key}={value}`" for key, value in asked.items())
    return (
        f"Let the login ask for {said}: as parameters of `/authorize`, or for every login in the "
        "connection's `options` (`PATCH /api/v2/connections/ID` replaces them as a whole: send "
        f"along what is there):\n\n   ```json\n   {json.dumps(params)}\n   ```"
    )


def _for_the_file(name: str, entry: Entry) -> str:
    """A table for evergrant.toml where the entry is not found, or not filled, by itself."""
    found = entry.strategies or entry.match_token_host or entry.match_token_path
    keys = [] if found or "{" not in entry.token_endpoint else [f'provider = "{name}"']
    keys += [f'fill.{word} = "…"' for word in _unknown_words(entry)]
    if not keys:
        return ""
    lines = "\n".join(["[tenants.acme.connections.CONNECTION]", *keys])
    return (
        "If the connection's options do not tell, say it in `evergrant.toml`:\n\n"
        f"```toml\n{lines}\n```"
    )


def _unknown_words(entry: Entry) -> list[str]:
    """A name of each placeholder that only options can fill, and for which nothing falls back."""
    address = (entry.refresh_endpoint or entry.token_endpoint).split(" | ")[-1]
    return [
        word
        for inner in templates.placeholders(address)
        if "'" not in inner
        for word in [next(one for one in inner.split("|") if "?" not in one)]
        if word not in _OWN_WORDS
    ]


def _bullets(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
