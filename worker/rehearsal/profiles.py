"""The behaviour of each rehearsed provider, read from `profiles.toml`.

Shape of a table: see the head of that file. `like` takes another table as the ground and changes
what is named; everything rests on `[defaults]`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

Table = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One provider's habits. Times in seconds."""

    name: str
    strategy: str
    client_auth: tuple[str, ...]
    method: str
    params_in: str
    grant: str
    grant_param: str
    grant_name: str
    subject_param: str
    rotation: str
    grace: str
    grace_s: float
    reuse: str
    refresh_token: str
    omits_refresh: bool
    access_lifetime_s: float
    families: int  # live logins per account and client; the oldest dies
    answer_as: str
    access_prefix: str
    refresh_prefix: str
    padding: int  # characters added to each token
    scope: str
    needs: tuple[str, ...]
    forbids: tuple[str, ...]
    answer: Table
    errors: Table
    revoke: Table
    entry: str = ""  # its name in Evergrant's catalogue, where that is another
    gives_tokens: bool = True  # False: a login brings assertions only
    client_id_param: str = "client_id"
    client_id_at_realm: bool = False  # the id is written id@realm
    refresh_path: str = "token"
    first: Table = field(default_factory=dict)
    introspects: bool = False
    second_pair_at: str = ""  # a login brings a second pair, under that key of the identity
    token_secret: bool = False  # OAuth 1.0a: a token comes with a secret to sign with
    expires: bool = True  # False: no lifetime is told at login
    kills_access_after_s: float | None = None
    early_renewal_s: float | None = None
    not_before_s: float | None = None
    refresh_lifetime_s: float | None = None
    refresh_idle_s: float | None = None
    refresh_ends_with_access: bool = False
    rotates_every_s: float = 0.0
    repeats_access: bool = False
    cuts_access: bool = False
    burst: int = 0
    burst_s: float = 0.0


@cache
def profiles() -> Mapping[str, Profile]:
    """Every profile that ships, by name."""
    tables = _shipped()
    return {name: built(name, tables) for name in tables if "strategy" in _resolved(name, tables)}


def load_profiles(path: Path) -> dict[str, Profile]:
    """The profiles of a file of one's own; `like` may name shipped ones. Raises: ValueError."""
    own = tomllib.loads(path.read_text("utf-8"))
    return {name: built(name, {**_shipped(), **own}) for name in own}


def _shipped() -> dict[str, Table]:
    return tomllib.loads(files(__package__).joinpath("profiles.toml").read_text("utf-8"))


def built(name: str, tables: Mapping[str, Table]) -> Profile:
    """The profile `name`, its grounds merged in. Raises ValueError for a key nobody knows."""
    table = _resolved(name, tables)
    if "strategy" not in table:
        raise ValueError(f"profile {name}: there is no strategy")
    known = {entry.name for entry in fields(Profile)}
    if unknown := set(table) - known:
        raise ValueError(f"profile {name}: unknown key {', '.join(sorted(unknown))}")
    for key in ("client_auth", "needs", "forbids"):
        table[key] = tuple(table[key])
    return Profile(name=name, **table)


def _resolved(name: str, tables: Mapping[str, Table]) -> Table:
    if name not in tables:
        raise ValueError(f"there is no profile {name}")
    own = dict(tables[name])
    ground = own.pop("like", "defaults") if name != "defaults" else None
    below = _resolved(ground, tables) if ground else {}
    merged = {**below, **own}
    for group in ("errors", "revoke", "first"):
        merged[group] = {**below.get(group, {}), **own.get(group, {})}
    return merged
