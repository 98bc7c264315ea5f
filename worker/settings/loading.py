"""Reading what is set, and saying what is wrong with it."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from pydantic import BaseModel, ValidationError

from worker.domain.errors import ConfigurationError
from worker.settings.least import ROLE, withheld_from, without
from worker.settings.lines import line_at
from worker.settings.stray import stray
from worker.settings.tables import NO_FILE, ActionSettings, NoticeSettings, Settings, TenantSettings

DEFAULT_TENANT = "default"  # what AUTH0_DOMAIN and its companions are known as

_AUTH0 = {  # as Auth0's own tools name them (auth0-deploy-cli, Terraform provider)
    "AUTH0_DOMAIN": "domain",
    "AUTH0_CLIENT_ID": "client_id",
    "AUTH0_CLIENT_SECRET": "client_secret",
    "AUTH0_PRIVATE_KEY": "private_key",
    "EVERGRANT_LOGS_AUTHORIZATION": "logs_authorization",
    "EVERGRANT_EVENTS_BEARER": "events_bearer",
    "EVERGRANT_ACTIONS_SECRET": "actions_secret",
}
_TABLES = frozenset({"tenants", "providers", "actions", "notices", "source", "warnings"})
_SIMPLE = {f"EVERGRANT_{name.upper()}": name for name in Settings.model_fields.keys() - _TABLES}


def load(
    environ: Mapping[str, str] | None = None,
    *,
    directory: Path | None = None,
    role: str | None = None,
) -> Settings:
    """Read everything, less the secrets that `role` does not use; by default the role the
    process was started as. Raises: ConfigurationError with file, key, and what to write instead.
    """
    base = directory or Path.cwd()
    real = os.environ if environ is None else environ
    named = real.get("EVERGRANT_CONFIG")
    path = base / (named or "evergrant.toml")
    if named and not path.is_file():
        raise ConfigurationError(f"EVERGRANT_CONFIG: {path} is not a file", code="no_config")
    dotenv = _dotenv(path.parent / ".env")
    env = {**dotenv, **real}
    text = _text_of(path) if path.exists() else ""
    place = _Place(base=path.parent, env=env, name=path.name, text=text)
    withheld = withheld_from(role or real.get(ROLE))
    values = _resolve(without(_parsed(text, path), withheld), place)
    source = str(path) if path.exists() else NO_FILE
    _overlay_environment(values, env, path.parent, withheld)
    warnings = stray({*_SIMPLE, *_AUTH0, "EVERGRANT_CONFIG", ROLE}, env, text)
    _fill_defaults(values, base)
    told = {**values, "source": source, "warnings": tuple(warnings)}
    try:
        return Settings.model_validate(told, context={"withheld": withheld})
    except ValidationError as error:
        raise _explained(error, source, text) from None  # the cause's repr could show the values


def _dotenv(path: Path) -> dict[str, str]:
    try:
        return {k: v for k, v in dotenv_values(path).items() if v is not None}
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: {error}", code="bad_dotenv") from None


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: {error}", code="bad_toml") from error
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}", code="no_config") from error


def _parsed(text: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: {error}", code="bad_toml") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a value was read: what its references are relative to, and how a message names it."""

    base: Path
    env: Mapping[str, str] = field(repr=False)
    name: str
    text: str = field(default="", repr=False)

    def at(self, path: Sequence[str]) -> str:
        line = line_at(self.text, path) if path else None
        told = f"{self.name}:{line}" if line else self.name
        return ": ".join(filter(None, [told, ".".join(path)]))


def _resolve(value: Any, place: _Place, path: tuple[str, ...] = ()) -> Any:
    """Replace every "env:NAME" and "file:PATH" by what stands there."""
    if isinstance(value, dict):
        return {key: _resolve(item, place, (*path, key)) for key, item in value.items()}
    if isinstance(value, str) and _is_keyring(path):
        return _address(value, place.base)
    if isinstance(value, list):
        return [_resolve(item, place, path) for item in value]
    if isinstance(value, str) and value.startswith("env:"):
        if (name := value[4:]) not in place.env:
            raise ConfigurationError(f"{place.at(path)}: {name} is not in the environment")
        return place.env[name]
    if isinstance(value, str) and value.startswith("file:"):
        try:
            return (place.base / value[5:]).read_text(encoding="utf-8").strip()
        except UnicodeDecodeError:  # its repr holds what stands there
            raise ConfigurationError(f"{place.at(path)}: {value}: not text in UTF-8") from None
        except OSError as error:
            raise ConfigurationError(f"{place.at(path)}: {value}: {error.strerror}") from error
    return value


def _is_keyring(path: Sequence[str]) -> bool:
    return path == ("keyring",) or (path[:1] == ("tenants",) and path[2:] == ("keyring",))


def _address(value: str, base: Path) -> str:
    """A keyring's address is handed on: what stands there is read by the vault, and by roles."""
    path = value.removeprefix("file:")
    return str(base / path) if path != value else value


def _overlay_environment(
    values: dict[str, Any], env: Mapping[str, str], base: Path, withheld: frozenset[str]
) -> None:
    """Put EVERGRANT_… and AUTH0_… over the file's values."""
    for name, key in _SIMPLE.items():
        if env.get(name):
            at = (key,) if _is_keyring((key,)) else ()
            values[key] = _resolve(env[name], _Place(base=base, env=env, name=name), at)
    told = {
        key: _resolve(env[name], _Place(base=base, env=env, name=name))
        for name, key in _AUTH0.items()
        if env.get(name) and key not in withheld
    }
    tenants = values.setdefault("tenants", {})
    meant = isinstance(tenants, dict) and ("domain" in told or DEFAULT_TENANT in tenants)
    if meant and isinstance(table := tenants.setdefault(DEFAULT_TENANT, {}), dict):
        tenants[DEFAULT_TENANT] = {**table, **told}


def _fill_defaults(values: dict[str, Any], base: Path) -> None:
    data_dir = (base / str(values.get("data_dir") or ".evergrant")).absolute()
    values["data_dir"] = data_dir
    values["database_url"] = values.get("database_url") or f"sqlite:///{data_dir / 'evergrant.db'}"
    values["keyring"] = values.get("keyring") or str(data_dir / "keyring.json")
    if values.get("broker_url", "embedded") in ("", "embedded"):
        values["broker_url"] = "filesystem://localhost/"


def _explained(error: ValidationError, source: str, text: str) -> ConfigurationError:
    """The first complaint, as file, line, key and what to do; a misspelt key before a missing one,
    which it probably was meant to be."""
    told = error.errors(include_input=False, include_url=False)
    first = next((one for one in told if one["type"] == "extra_forbidden"), told[0])
    path = [str(part) for part in first["loc"] if isinstance(part, str)]
    line = line_at(text, path) if path else None
    where, key = f"{source}:{line}" if line else source, ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        parent, name = _model_at(first["loc"][:-1]), str(first["loc"][-1])
        return ConfigurationError(
            f"{where}: unknown key {key}{_suggest(name, set(parent.model_fields))}",
            code="unknown_key",
        )
    message = _PLAINLY.get(first["type"], first["msg"].removeprefix("Value error, "))
    return ConfigurationError(f"{where}: {key}: {message}".replace(": : ", ": "), code="bad_value")


_PLAINLY = {
    "missing": "is missing",
    "dict_type": "write a table: [name] and its keys below",
    "tuple_type": 'write a list: ["…"]',
    "bool_parsing": "write true or false",
    "int_parsing": "write a number",
    "float_parsing": "write a number",
}


def _model_at(loc: tuple[int | str, ...]) -> type[BaseModel]:
    tables: dict[str, type[BaseModel]] = {
        "tenants": TenantSettings,
        "actions": ActionSettings,
        "notices": NoticeSettings,
    }
    return tables.get(str(loc[0]), Settings) if loc else Settings


def _suggest(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def database_url() -> str:
    """The database of this directory's settings; for `alembic` run by hand."""
    return load().database_url


def private_place(path: Path) -> Path:
    """`path`, made if it is not there: for its owner alone, whoever comes first.

    Raises: ConfigurationError, it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be made: {error.strerror}; EVERGRANT_DATA_DIR says where",
            code="no_place",
        ) from error
    return path


def share_metrics(data_dir: Path) -> None:
    """Let the processes of one data directory count together (see monitoring.metrics).

    Takes effect only before `monitoring.metrics` is first imported.
    """
    path = private_place(private_place(data_dir) / "metrics")
    os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", str(path))
