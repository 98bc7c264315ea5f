"""Reading what is set, and saying what is wrong with it."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from pydantic import BaseModel, ValidationError

from worker.domain.errors import ConfigurationError
from worker.settings.tables import ActionSettings, NoticeSettings, Settings, TenantSettings

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
_MEANT_FOR_US = re.compile(r"EVERGRANT_[A-Z_]+")


def load(environ: Mapping[str, str] | None = None, *, directory: Path | None = None) -> Settings:
    """Read everything. Raises: ConfigurationError with file, key, and what to write instead."""
    base = directory or Path.cwd()
    real = os.environ if environ is None else environ
    named = real.get("EVERGRANT_CONFIG")
    path = base / (named or "evergrant.toml")
    if named and not path.is_file():
        raise ConfigurationError(f"EVERGRANT_CONFIG: {path} is not a file", code="no_config")
    dotenv = {k: v for k, v in dotenv_values(path.parent / ".env").items() if v is not None}
    env = {**dotenv, **real}
    values = _resolve(_read_toml(path), env, path.parent, f"{path.name}: ") if path.exists() else {}
    source = str(path) if path.exists() else "the environment"
    warnings = _overlay_environment(values, env, path.parent)
    _fill_defaults(values, base)
    try:
        return Settings(**values, source=source, warnings=tuple(warnings))
    except ValidationError as error:
        raise _explained(error, source) from None  # the cause's repr could show the values


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: {error}", code="bad_toml") from error
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}", code="no_config") from error


def _resolve(value: Any, env: Mapping[str, str], base: Path, where: str) -> Any:
    """Replace every "env:NAME" and "file:PATH" by what stands there."""
    if isinstance(value, dict):
        return {key: _resolve(item, env, base, f"{where}{key}.") for key, item in value.items()}
    if isinstance(value, list):
        return [_resolve(item, env, base, where) for item in value]
    if isinstance(value, str) and value.startswith("env:"):
        if (name := value[4:]) not in env:
            raise ConfigurationError(f"{where.rstrip('.')}: {name} is not in the environment")
        return env[name]
    if isinstance(value, str) and value.startswith("file:"):
        try:
            return (base / value[5:]).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigurationError(f"{where.rstrip('.')}: {value}: {error.strerror}") from error
    return value


def _overlay_environment(values: dict[str, Any], env: Mapping[str, str], base: Path) -> list[str]:
    """Put EVERGRANT_… and AUTH0_… over the file's values; returns warnings about stray names."""
    tables = {"tenants", "providers", "actions", "notices", "source", "warnings"}
    simple = {f"EVERGRANT_{name.upper()}": name for name in Settings.model_fields.keys() - tables}
    for name, key in simple.items():
        if env.get(name):
            values[key] = _resolve(env[name], env, base, name)
    told = {_AUTH0[n]: _resolve(env[n], env, base, n) for n in _AUTH0 if env.get(n)}
    if "domain" in told or DEFAULT_TENANT in values.get("tenants", {}):
        tenants = values.setdefault("tenants", {})
        tenants[DEFAULT_TENANT] = {**tenants.get(DEFAULT_TENANT, {}), **told}
    known = {*simple, *_AUTH0, "EVERGRANT_CONFIG"}
    stray = [name for name in env if _MEANT_FOR_US.fullmatch(name) and name not in known]
    return [f"{name} is no setting{_suggest(name, known)}" for name in sorted(stray)]


def _fill_defaults(values: dict[str, Any], base: Path) -> None:
    data_dir = (base / str(values.get("data_dir") or ".evergrant")).absolute()
    values["data_dir"] = data_dir
    values["database_url"] = values.get("database_url") or f"sqlite:///{data_dir / 'evergrant.db'}"
    values["keyring"] = values.get("keyring") or str(data_dir / "keyring.json")
    if values.get("broker_url", "embedded") in ("", "embedded"):
        values["broker_url"] = "filesystem://localhost/"


def _explained(error: ValidationError, source: str) -> ConfigurationError:
    """The first complaint, as file, key and what to do."""
    first = error.errors(include_input=False, include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        parent, name = _model_at(first["loc"][:-1]), str(first["loc"][-1])
        return ConfigurationError(
            f"{source}: unknown key {key}{_suggest(name, set(parent.model_fields))}",
            code="unknown_key",
        )
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        message = "is missing"
    return ConfigurationError(f"{source}: {key}: {message}".replace(": : ", ": "), code="bad_value")


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


def share_metrics(data_dir: Path) -> None:
    """Let the processes of one data directory count together (see monitoring.metrics).

    Takes effect only before prometheus-client is first imported.
    """
    path = data_dir / "metrics"
    path.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", str(path))
