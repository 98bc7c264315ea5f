"""The words an entry of the catalogue is written in; the JSON Schema is made from these types.

A key means the same in `catalog.toml`, in `[providers.NAME]` of `evergrant.toml` and in the
overrides of one connection. Defaults are RFC 6749: POST, a form, JSON back, `expires_in`.
Durations are a number and a unit: "45s", "15m", "8h", "60d". Templates are explained in
`templates`, paths into an answer in `paths`.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct, field

Duration: TypeAlias = Annotated[str, Meta(pattern=r"^(\d+[smhd])?$")]
Template: TypeAlias = Annotated[str, Meta(description="text with {placeholders}")]
Scalar: TypeAlias = str | int | bool

ClientAuth: TypeAlias = Literal[
    "post",  # client_id and client_secret in the body
    "basic",  # RFC 6749 §2.3.1
    "basic_or_post",  # both are taken; we post, no escaping rule can go wrong there
    "basic_secret_as_user",  # the secret is the user name, the password is empty
    "none",  # client_id only
    "anonymous",  # not even that
    "secret_only",  # the secret without an id: Meta's first exchange
    "private_key_jwt",  # RFC 7523, with a key of our own
    "apple_jwt",  # an ES256 token in the place of the secret
    "oauth1",  # signed; we do not renew these
    "per_connection",  # the connection's options say, or the operator
]
Rotates: TypeAlias = Literal["none", "sliding", "single_use", "single_use_grace", "unknown"]
ExpiryForm: TypeAlias = Literal["seconds", "epoch", "epoch_ms", "iso", "jwt_exp", "declared"]
RevokeEffect: TypeAlias = Literal["token", "refresh_token", "pair", "grant", "app"]


class Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A table of the catalogue: written by hand, so a key nobody knows is refused."""


class Condition(Table, frozen=True, kw_only=True):
    """All that is given must hold. An empty condition always holds."""

    option: str = ""  # dotted path into the connection's options
    equals: Scalar | None = None
    present: bool | None = None  # given and neither empty nor false
    token_host: str = ""  # host of the connection's token URL
    has_refresh_token: bool | None = None
    access_token_prefix: str = ""
    expires_told: bool | None = None


class Refusal(Condition, frozen=True, kw_only=True):
    """A connection of which this holds cannot be renewed."""

    because: str
    advice: str = ""


class CodeAt(Table, frozen=True, kw_only=True):
    """Where an error code stands. The prefix keeps numbers of different meaning apart."""

    path: str
    prefix: str = ""


class Errors(Table, frozen=True, kw_only=True):
    """Which code means what. Entries add to RFC 6749 §5.2 and may move its words."""

    codes_at: list[CodeAt] = []
    ok_at: str = ""  # path of a boolean that is false in a refusal, whatever the status
    permanent: list[str] = []  # this grant is dead
    heals: list[str] = []  # dead for now: an admin's act revives the same refresh token
    config: list[str] = []  # the client or the connection is wrong, no grant is
    config_if_repeated: list[str] = []  # the same, but who asks too often is told so too
    transient: list[str] = []
    too_often: list[str] = []  # transient, and asking again soon makes it worse
    told: dict[str, str] = {}  # code → what it means to a person, and what mends it


class ResponseMap(Table, frozen=True, kw_only=True):
    """Paths tried in order."""

    access_token: list[str] = field(default_factory=lambda: ["access_token"])
    refresh_token: list[str] = field(default_factory=lambda: ["refresh_token"])
    refresh_expires_in: list[str] = field(default_factory=lambda: ["refresh_token_expires_in"])
    scope: list[str] = field(default_factory=lambda: ["scope"])
    token_type: list[str] = field(default_factory=lambda: ["token_type"])
    api_base: list[str] = []  # the address of the API that serves this account


class Expiry(Table, frozen=True, kw_only=True):
    """One form in which an answer tells its expiry; the list is tried in order."""

    form: ExpiryForm
    path: str = ""


class Lifetimes(Table, frozen=True, kw_only=True):
    """What the provider states; absent means not established."""

    access: Duration = ""
    refresh: Duration = ""  # absolute
    refresh_from: Literal["issue", "login"] = "issue"  # "login": a refresh does not extend it
    idle: Duration = ""  # dies when unused for so long
    access_after_refresh: Duration = (
        ""  # an old access token, whatever `expires_in` said; "0s": at once
    )


class First(Table, frozen=True, kw_only=True):
    """How the token that a login brings becomes one that can be renewed: exchanged once, at once.

    What is absent is as in the entry.
    """

    lives: Duration = ""  # the login's token, where nobody tells
    token_endpoint: Template = ""
    grant: str = ""
    client_auth: ClientAuth | None = None


class Timing(Table, frozen=True, kw_only=True):
    """When to renew, where the general rule is wrong."""

    margin: Duration = ""  # before expiry
    not_before: Duration = ""  # after issue
    max_early: Duration = ""  # before expiry; what comes sooner is refused
    keepalive: Duration = ""  # at least this often
    active_within: Duration = ""  # after a login; later, renewing brings nothing of use


class Limits(Table, frozen=True, kw_only=True):
    """What a token host bears from us."""

    concurrency: Annotated[int, Meta(ge=1, le=1000)] = 16
    per_second: Annotated[float, Meta(gt=0, le=10000)] = 25.0
    gap: Duration = ""  # between an exchange of a grant that brought nothing and its next
    note: str = ""


class Revoke(Table, frozen=True, kw_only=True):
    """How a consent is ended at the provider."""

    endpoint: Template = ""  # empty: there is nothing to ask
    method: Literal["POST", "DELETE", "GET"] = "POST"
    body: Literal["form", "json", "none"] = "form"
    token: Literal["access_token", "refresh_token", "refresh_or_access"] = "refresh_or_access"
    token_param: str = "token"  # empty: the token is in the endpoint or the header only
    type_hint: bool = False  # RFC 7009 §2.1
    auth: Literal["client", "basic", "bearer", "client_id", "anonymous", "oauth1"] = "client"
    extra_params: dict[str, Template] = {}
    done_codes: list[str] = []  # refusals that mean: it was dead already
    effect: RevokeEffect = "token"
    by_hand: str = ""  # where a person does it; absent: not established
    by_hand_effect: RevokeEffect = "app"  # the settings of an account list whole apps


class Call(Table, frozen=True, kw_only=True):
    """How an app uses the access token; for the pages."""

    url: str = ""  # a harmless request that shows the token works
    method: Literal["GET", "POST"] = "GET"
    scheme: str = "Bearer"  # the word before the token
    header: str = ""  # where the bare token goes into another header
    param: str = ""  # where it goes into the query (GET) or the form (POST) instead
    query: dict[str, str] = {}
    headers: dict[str, str] = {}
    json: dict[str, str] = {}
    note: str = ""


class Dated(Table, frozen=True, kw_only=True):
    """What a provider changed on a day, or has announced to change."""

    on: dt.date
    what: str
    advice: str = ""


class Entry(Table, frozen=True, kw_only=True):
    """One provider."""

    # which grants it serves
    display_name: str = ""
    extends: str = ""  # keys that are absent here are that entry's
    strategies: list[str] = []  # Auth0's names
    match_token_host: list[str] = []  # absent: the host of a token_endpoint without placeholders
    match_token_path: str = ""  # shell pattern, narrows the host
    applies_when: list[Condition] = []  # any of them; empty: the strategy's plain case
    refuse_when: list[Refusal] = []
    # asking
    token_endpoint: Template = ""
    refresh_endpoint: Template = ""  # where it is another address
    method: Literal["POST", "GET"] = "POST"
    params_in: Literal["body", "query"] = "body"
    body: Literal["form", "json"] = "form"
    client_auth: ClientAuth = "per_connection"
    client_id_param: str = "client_id"
    client_secret_param: str = "client_secret"
    grant: str = "refresh_token"  # "none": nothing to renew with
    grant_param: str = "grant_type"
    subject: Literal["refresh_token", "access_token"] = "refresh_token"
    subject_param: str = "refresh_token"
    first: First | None = None
    extra_params: dict[str, Template] = {}
    headers: dict[str, Template] = {}
    fill: dict[str, str] = {}  # values of placeholders that the options do not give
    requires_scopes: list[str] = []  # any of them must be asked at login
    requires_login: dict[str, str] = {}  # parameters of the authorization request
    # reading
    response_map: ResponseMap = ResponseMap()
    user_pair_at: str = ""  # key of an identity that may hold the user's pair; the other is a bot's
    account_claim: str = ""  # of an answer's id_token: the identity's user id, as Auth0 has it
    expiry: list[Expiry] = []
    zero_means: Literal["never", "untold"] = "untold"
    absent_means: Literal["never", "untold"] = "untold"
    errors: Errors = Errors()
    # time and limits
    rotation: Rotates = "unknown"
    rotation_grace: Duration = ""
    may_repeat: bool = False  # although it rotates, a refresh may bring the same refresh token
    reuse_revokes_family: bool | None = None  # absent: not established
    lifetimes: Lifetimes = Lifetimes()
    timing: Timing = Timing()
    limits: Limits = Limits()
    token_limit: str = ""
    # ending
    revoke: Revoke = Revoke()
    dead_since: dt.date | bool | None = None  # false: an operator says it lives
    dead_reason: str = ""
    nothing_to_renew: str = ""  # with grant "none": why
    # telling
    hook: str = ""
    introspection_endpoint: Template = ""  # RFC 7662; asked by the hook introspect_expiry
    call: Call = Call()
    traps: list[str] = []
    advice: list[str] = []  # what to set in Auth0 or at the provider
    source: list[str] = []
    as_of: dt.date | None = None
    confidence: Literal["documented", "code", "reported", "operator"] = "operator"
    grounds: dict[str, str] = {}  # keys of this entry that rest on something else
    changes: list[Dated] = []  # told by `providers show`, and by the doctor while they are near


UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def duration(text: str) -> dt.timedelta | None:
    """ "8h" as a timedelta; None for the empty text, which means not established."""
    return dt.timedelta(**{UNITS[text[-1]]: int(text[:-1])}) if text else None
