"""The sole reader of the environment and of `evergrant.toml`.

Precedence: the environment, then `.env` beside the configuration file, then the file, then the
defaults. A value `env:NAME` or `file:PATH` (relative to the file) is read from there, so that
the file itself holds no secret. What is misspelt stops the start: a setting that silently does
nothing is worse than none.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from dotenv import dotenv_values
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from worker.domain.errors import ConfigurationError
from worker.domain.secret import Secret

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


def _as_secret(value: object) -> object:
    return Secret(value) if isinstance(value, str) and value else value


def _as_secrets(value: object) -> object:
    """One, or a list of them while one is being rotated."""
    return tuple(map(_as_secret, value if isinstance(value, list) else [value]))


SecretValue = Annotated[Secret, BeforeValidator(_as_secret)]
SecretValues = Annotated[tuple[Secret, ...], BeforeValidator(_as_secrets)]


class _Table(BaseModel):
    # hide_input_in_errors: pydantic's messages would print the value, and it may be a secret
    model_config = ConfigDict(
        extra="forbid", frozen=True, arbitrary_types_allowed=True, hide_input_in_errors=True
    )


class ConnectionSettings(_Table):
    """`[tenants.NAME.connections.CONNECTION]`; any further key is one of the catalogue's."""

    model_config = ConfigDict(extra="allow")

    client_id: str | None = None
    client_secret: SecretValue | None = None  # where Auth0 does not show it
    required_scopes: tuple[str, ...] = ()
    enabled: bool = True

    @property
    def overrides(self) -> Mapping[str, object]:
        """Catalogue keys; the catalogue checks them."""
        return dict(self.model_extra or {})


class TenantSettings(_Table):
    """`[tenants.NAME]`: one Auth0 tenant and how it and we know each other."""

    domain: str
    client_id: str
    client_secret: SecretValue | None = None
    private_key: SecretValue | None = None  # PEM, for private_key_jwt
    base_url: str | None = None  # in place of https://<domain>; tests and rehearsal only
    logs_authorization: SecretValues = ()  # the whole header value, as set at the log stream
    events_bearer: SecretValues = ()
    events_basic: SecretValues = ()  # "user:password"
    events_header: SecretValues = ()  # "Name: value"
    actions_secret: SecretValues = ()  # "whsec_…"
    events_api: bool = False  # read what an event stream would tell; needs read:events
    subject_audience: str | None = None  # of users' own tokens, for API keys with the verb "own"
    plan: str | None = None
    requests_per_second: float | None = Field(default=None, gt=0)
    blocked_users: Literal["stop", "keep"] = "stop"  # handing out the tokens of blocked users
    database_connections: tuple[str, ...] = ()  # those whose login scripts return tokens
    connections: Mapping[str, ConnectionSettings] = {}

    @field_validator("domain")
    @classmethod
    def _bare_host(cls, value: str) -> str:
        host = value.removeprefix("https://").rstrip("/").lower()
        if not re.fullmatch(r"[a-z0-9.-]+(:\d+)?", host):
            raise ValueError("must be a host name such as acme.eu.auth0.com")
        return host

    @model_validator(mode="after")
    def _has_a_credential(self) -> TenantSettings:
        if not self.client_secret and not self.private_key:
            raise ValueError("needs client_secret (AUTH0_CLIENT_SECRET) or private_key")
        return self


class ActionSettings(_Table):
    """`[[actions]]`: an operator's own handler, bound to a trigger."""

    run: str  # dotted path, "package.module:function" or "package.module.function"
    trigger: str
    name: str | None = None
    position: int = 100  # the built-in ones stand at 0 to 50
    timeout: float = Field(default=20, gt=0)  # seconds
    tenants: tuple[str, ...] = ()  # none: all
    secrets: Mapping[str, SecretValue] = {}  # handed to it as `event.secrets`


class NoticeSettings(_Table):
    """`[[notices]]`: where signed notices are posted."""

    url: str
    secret: SecretValue
    kinds: tuple[str, ...] = ()  # none: all
    tenants: tuple[str, ...] = ()


class ApiKeySettings(_Table):
    """One of EVERGRANT_API_KEYS; for a first start, and for compose files."""

    name: str
    secret: SecretValue
    scope: str


def _seconds(value: object) -> object:
    return timedelta(seconds=float(value)) if isinstance(value, str | int | float) else value


def _or_off(value: object) -> object:
    return None if value == "off" else value


class Settings(_Table):
    """Everything that can be set, read once."""

    data_dir: Path = Field(
        default=Path(".evergrant"),
        description="journal, spool, embedded database and queue; one per machine, on a real disk",
    )
    database_url: str = Field(
        default="",
        repr=False,
        description="`postgresql://…`; embedded SQLite in the data directory by default",
    )
    broker_url: str = Field(
        default="embedded",
        repr=False,
        description="`amqp://…`, `redis://…`; by default files in the data directory",
    )
    keyring: str = Field(
        default="", description="file, or `env:NAME` holding its content; `<data dir>/keyring.json`"
    )
    host: str = Field(default="127.0.0.1", description="where the web role listens")
    port: int = Field(default=8377, ge=0, le=65535, description="and on which port")
    api_keys: tuple[ApiKeySettings, ...] = Field(
        default=(), description="keys for a first start, `name:secret:scope …`"
    )
    tick: Annotated[timedelta, BeforeValidator(_seconds)] = Field(
        default=timedelta(seconds=5),
        description="seconds between the scheduler's looks at the store",
    )
    allow_loopback: bool = Field(
        default=False,
        description="1: http and private addresses as tenants and token endpoints; rehearsals only",
    )
    concurrency: int = Field(
        default=32, ge=1, le=256, description="hints at work at once in a worker; threads that wait"
    )
    batch_seconds: float = Field(
        default=15, gt=0, le=20, description="how long one hint goes on draining a provider"
    )
    confirm_after: Annotated[timedelta, BeforeValidator(_seconds)] = Field(
        default=timedelta(seconds=60),
        description="seconds between the two refusals that end a grant; less only in rehearsals",
    )
    log_format: Literal["json", "console"] = Field(
        default="console", description="`json` for machines"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="`debug`, `info`, `warning` or `error`"
    )
    metrics_port: int | None = Field(
        default=None, ge=1, le=65535, description="a worker's own `/metrics`, where no web role is"
    )
    flower_host: str = Field(default="127.0.0.1", description="where Flower listens")
    flower_port: int = Field(default=5555, ge=0, le=65535, description="and on which port")
    flower_auth: SecretValue | None = Field(
        default=None, description="`user:password`; required unless Flower listens on loopback"
    )
    poll_logs: bool = Field(
        default=True, description="follow each tenant's log, which finds what webhooks missed"
    )
    reconcile_hour: Annotated[int | None, BeforeValidator(_or_off)] = Field(
        default=3, ge=0, le=23, description="UTC hour of the nightly look at every user, or `off`"
    )

    tenants: Mapping[str, TenantSettings] = {}
    providers: Mapping[str, Mapping[str, Any]] = {}
    actions: tuple[ActionSettings, ...] = ()
    notices: tuple[NoticeSettings, ...] = ()

    source: str = Field(default="the environment", exclude=True)  # the file read, for messages
    warnings: tuple[str, ...] = Field(default=(), exclude=True)

    @field_validator("tick")
    @classmethod
    def _a_tick_takes_time(cls, value: timedelta) -> timedelta:
        if not timedelta(milliseconds=50) <= value <= timedelta(hours=1):
            raise ValueError("must be between 0.05 and 3600 seconds")
        return value

    @field_validator("api_keys", mode="before")
    @classmethod
    def _parse_api_keys(cls, value: object) -> object:
        return [_api_key(entry) for entry in value.split()] if isinstance(value, str) else value

    @field_validator("tenants")
    @classmethod
    def _names_fit_urls_and_routing_keys(
        cls, value: Mapping[str, TenantSettings]
    ) -> Mapping[str, TenantSettings]:
        for name in value:
            if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,62}", name):
                raise ValueError(f"{name!r}: a tenant's name is lower case letters, digits, - or _")
        return value

    @model_validator(mode="after")
    def _plain_http_is_for_rehearsals(self) -> Settings:
        for name, tenant in self.tenants.items():
            if tenant.base_url and not self.allow_loopback:
                raise ValueError(
                    f"tenants.{name}.base_url is for rehearsals; set EVERGRANT_ALLOW_LOOPBACK=1"
                )
        return self

    @model_validator(mode="after")
    def _a_grant_is_not_given_up_in_haste(self) -> Settings:
        if self.confirm_after < timedelta(seconds=60) and not self.allow_loopback:
            raise ValueError("confirm_after: at least 60 seconds lie between two refusals")
        return self

    @property
    def embedded_broker(self) -> bool:
        return self.broker_url.startswith(("filesystem:", "memory:"))

    @property
    def embedded_database(self) -> bool:
        return self.database_url.startswith("sqlite")

    @property
    def base_url(self) -> str:
        """Where this machine reaches the web process."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104  # compared
        return f"http://{host}:{self.port}"


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


def _api_key(entry: str) -> dict[str, str]:
    name, secret, scope = [*entry.split(":", 2), "", ""][:3]
    if not (name and secret and scope):
        raise ValueError("each key is name:secret:scope")
    return {"name": name, "secret": secret, "scope": scope}


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
