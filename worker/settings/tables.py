"""What can be set, and what may stand there: each setting is described where it is declared."""

from __future__ import annotations

import base64
import difflib
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from worker.domain.ports import NOTICE_KINDS
from worker.domain.secret import Secret


def _as_secret(value: object) -> object:
    if isinstance(value, Secret):
        return value
    if not isinstance(value, str) or not value:
        raise ValueError("is empty" if value == "" else 'write text: "…"')
    return Secret(value)


def _as_secrets(value: object) -> object:
    """One, or a list of them while one is being rotated."""
    return tuple(map(_as_secret, value if isinstance(value, list) else [value]))


def _signs(secret: Secret) -> Secret:
    """A secret of Standard Webhooks: base64, with "whsec_" before it or not."""
    try:
        key = base64.b64decode(secret.text().removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    if not key:
        raise ValueError("must be base64, as from `openssl rand -base64 32`, whsec_ before it")
    return secret


def _each_signs(secrets: tuple[Secret, ...]) -> tuple[Secret, ...]:
    return tuple(map(_signs, secrets))


SecretValue = Annotated[Secret, BeforeValidator(_as_secret)]
SecretValues = Annotated[tuple[Secret, ...], BeforeValidator(_as_secrets)]


class _Table(BaseModel):
    # hide_input_in_errors: pydantic's messages would print the value, and it may be a secret
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )


class ConnectionSettings(_Table):
    """`[tenants.NAME.connections.CONNECTION]`; any further key is one of the catalogue's."""

    model_config = ConfigDict(extra="allow")

    client_id: str | None = None
    client_secret: SecretValue | None = None  # where Auth0 does not show it
    private_key: SecretValue | None = None  # PEM; for private_key_jwt with a key of our own
    required_scopes: tuple[str, ...] = ()
    enabled: bool = True

    @property
    def overrides(self) -> Mapping[str, object]:
        """Catalogue keys; the catalogue checks them."""
        own = {"private_key": self.private_key} if self.private_key else {}
        return {**(self.model_extra or {}), **own}


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
    actions_secret: Annotated[SecretValues, AfterValidator(_each_signs)] = ()  # "whsec_…"
    events_api: bool = False  # read what an event stream would tell; needs read:events
    subject_audience: str | None = None  # of users' own tokens, for API keys with the verb "own"
    plan: str | None = None
    requests_per_second: float | None = Field(default=None, gt=0)
    blocked_users: Literal["stop", "keep"] = "stop"  # handing out the tokens of blocked users
    database_connections: tuple[str, ...] = ()  # those whose login scripts return tokens
    keyring: str | None = None  # of its own, as EVERGRANT_KEYRING; the deployment's by default
    connections: Mapping[str, ConnectionSettings] = {}

    @field_validator("events_basic", "events_header")
    @classmethod
    def _in_two_parts(cls, value: tuple[Secret, ...], info: ValidationInfo) -> tuple[Secret, ...]:
        form = "user:password" if info.field_name == "events_basic" else "Name: value"
        for one in value:
            name, _, rest = one.text().partition(":")
            if not (name.strip() and rest.strip()):
                raise ValueError(f'write "{form}"')
        return value

    @field_validator("domain")
    @classmethod
    def _bare_host(cls, value: str) -> str:
        host = value.removeprefix("https://").rstrip("/").lower()
        if not re.fullmatch(r"[a-z0-9.-]+(:\d+)?", host):
            raise ValueError("must be a host name such as acme.eu.auth0.com")
        return host

    @model_validator(mode="after")
    def _has_a_credential(self, info: ValidationInfo) -> TenantSettings:
        if "client_secret" in (info.context or {}).get("withheld", ()):
            return self  # this role does not read it
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
    secret: Annotated[SecretValue, AfterValidator(_signs)]
    kinds: tuple[str, ...] = ()  # none: all
    tenants: tuple[str, ...] = ()

    @field_validator("url")
    @classmethod
    def _an_address(cls, value: str) -> str:
        if not re.match(r"https?://[^/?#\s]+", value):
            raise ValueError("write the address of a webhook: https://…")
        return value


class ApiKeySettings(_Table):
    """One of EVERGRANT_API_KEYS; for a first start, and for compose files."""

    name: str
    secret: SecretValue
    scope: str


# In URLs and routing keys; whoever writes a configuration asks here too.
TENANT_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
TENANT_NAME_TOLD = "lower case letters, digits, - or _, 63 at most, the first no - or _"
_LONGEST = timedelta(days=3660)  # what is longer is a slip, and no calendar holds its end
_STORES = re.compile(r"(sqlite(\+pysqlite)?|postgres(ql)?(\+psycopg)?)://")
_BROKERS = re.compile(r"(amqps?|pyamqp|rediss?|redis\+socket|filesystem|memory)(\+\w+)?://")


def _seconds(value: object) -> object:
    if isinstance(value, timedelta):
        return value
    try:
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            length = timedelta(seconds=float(value))
            if abs(length) <= _LONGEST:
                return length
    except (ValueError, OverflowError):
        pass
    raise ValueError("write a number of seconds")


def _or_off(value: object) -> object:
    return None if value == "off" else value


NO_FILE = "the environment"


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
        default="",
        description="file, `env:NAME` holding its content, or `vault://…` (keys.md); "
        "`<data dir>/keyring.json`",
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
    deletion_confirm: Annotated[timedelta, BeforeValidator(_seconds)] = Field(
        default=timedelta(seconds=30),
        description="seconds between the two looks that find a deleted user gone, after which "
        "nothing of his is handed out",
    )
    deletion_quiet: Annotated[timedelta, BeforeValidator(_seconds)] = Field(
        default=timedelta(minutes=5),
        description="seconds from then until his grants are revoked and their keys destroyed, if "
        "a third look says the same",
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
    reconcile_share: float = Field(
        default=0.2,
        gt=0,
        le=1,
        description="of each tenant's request budget: what that look may use",
    )

    tenants: Mapping[str, TenantSettings] = {}
    providers: Mapping[str, Mapping[str, Any]] = {}
    actions: tuple[ActionSettings, ...] = ()
    notices: tuple[NoticeSettings, ...] = ()

    source: str = Field(default=NO_FILE, exclude=True)  # the file read, for messages
    warnings: tuple[str, ...] = Field(default=(), exclude=True)

    @field_validator("tick")
    @classmethod
    def _a_tick_takes_time(cls, value: timedelta) -> timedelta:
        if not timedelta(milliseconds=50) <= value <= timedelta(hours=1):
            raise ValueError("must be between 0.05 and 3600 seconds")
        return value

    @field_validator("database_url")
    @classmethod
    def _a_store_there_is(cls, value: str) -> str:
        if not _STORES.match(value):
            raise ValueError("write postgresql://USER:PASSWORD@HOST/DATABASE, or leave it out")
        return value

    @field_validator("broker_url")
    @classmethod
    def _a_broker_there_is(cls, value: str) -> str:
        for one in value.split(";"):
            if not _BROKERS.match(one):
                raise ValueError("write amqp://… (RabbitMQ) or redis://…, or leave it out")
            try:
                urlsplit(one).port  # noqa: B018  # raises
            except ValueError:
                raise ValueError("what stands there is no address: look at its port") from None
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
            if not TENANT_NAME.fullmatch(name):
                raise ValueError(f"{name!r}: a tenant's name is {TENANT_NAME_TOLD}")
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
    def _notices_of_kinds_there_are(self) -> Settings:
        """An operator's own actions may make up kinds of their own."""
        for number, notice in enumerate(self.notices):
            unknown = [kind for kind in notice.kinds if kind not in NOTICE_KINDS]
            if unknown and not self.actions:
                close = difflib.get_close_matches(unknown[0], NOTICE_KINDS, n=1)
                meant = f"did you mean {close[0]}?" if close else ", ".join(sorted(NOTICE_KINDS))
                raise ValueError(f"notices.{number}.kinds: no notice {unknown[0]!r}; {meant}")
        return self

    @model_validator(mode="after")
    def _a_grant_is_not_given_up_in_haste(self) -> Settings:
        if self.confirm_after < timedelta(seconds=60) and not self.allow_loopback:
            raise ValueError("confirm_after: at least 60 seconds lie between two refusals")
        return self

    @model_validator(mode="after")
    def _what_cannot_be_undone_is_not_done_in_haste(self) -> Settings:
        least = {"deletion_confirm": timedelta(seconds=20), "deletion_quiet": timedelta(minutes=1)}
        for name, length in least.items():
            if getattr(self, name) < length and not self.allow_loopback:
                raise ValueError(f"{name}: at least {length.total_seconds():g} seconds")
        return self

    @property
    def own_keyrings(self) -> Mapping[str, str]:
        """Tenant to the address of its keyring, of those that do not use the deployment's."""
        told = {name: tenant.keyring for name, tenant in self.tenants.items()}
        return {name: own for name, own in told.items() if own and own != self.keyring}

    @property
    def from_file(self) -> bool:
        """Whether there is an `evergrant.toml`."""
        return self.source != NO_FILE

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


def _api_key(entry: str) -> dict[str, str]:
    name, secret, scope = [*entry.split(":", 2), "", ""][:3]
    if not (name and secret and scope):
        raise ValueError("each key is name:secret:scope")
    return {"name": name, "secret": secret, "scope": scope}
