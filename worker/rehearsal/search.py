"""As much of Auth0's user search as partitioning a tenant needs.

Understood: terms joined by AND, each `field:value`, `field:"value"` or a range
`field:[a TO b]` / `field:{a TO b}` with `*` for an open end, on user_id, email, created_at,
updated_at, last_login, identities.connection and identities.user_id. Source:
https://auth0.com/docs/manage-users/user-search/user-search-query-syntax
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .records import iso
from .values import User

_TERM = re.compile(
    r"(?P<field>[a-z_.]+):(?:(?P<open>[\[{])(?P<low>\S+) TO (?P<high>\S+)(?P<shut>[\]}])"
    r'|"(?P<quoted>[^"]*)"|(?P<plain>\S+))'
)


@dataclass(frozen=True, slots=True)
class Term:
    field: str
    value: str | None = None
    low: str = "*"
    high: str = "*"
    low_inclusive: bool = True
    high_inclusive: bool = True


def parsed(query: str) -> list[Term]:
    """The terms of `query`; one that is not understood matches nobody."""
    return [_term(text) for text in re.split(r"\s+AND\s+", query.strip()) if text]


def matches(user: User, terms: list[Term], *, now: float) -> bool:
    """As the index has the user at `now`: what was linked a moment ago is not in it yet."""
    return all(_meets(user, term, now) for term in terms)


def _term(text: str) -> Term:
    found = _TERM.fullmatch(text.strip("()"))
    if found is None:
        return Term("", value="")
    if found["open"] is None:
        return Term(found["field"], value=found["quoted"] or found["plain"])
    return Term(
        found["field"],
        low=found["low"],
        high=found["high"],
        low_inclusive=found["open"] == "[",
        high_inclusive=found["shut"] == "]",
    )


def _meets(user: User, term: Term, now: float) -> bool:
    for value in _values(user, term.field, now):
        if term.value is not None:
            if value == term.value:
                return True
        elif _in_range(value, term):
            return True
    return False


def _in_range(value: str, term: Term) -> bool:
    """ISO 8601 compares as text; a shorter bound is taken as a prefix of its first instant."""
    low, high = (bound.rstrip("Z") for bound in (term.low, term.high))
    text = value.rstrip("Z")
    above = low == "*" or text > low or (term.low_inclusive and text == low)
    below = high == "*" or text < high or (term.high_inclusive and text.startswith(high))
    return above and below


def _values(user: User, field: str, now: float) -> list[str]:
    if field in ("identities.connection", "identities.user_id"):
        name = field.partition(".")[2]
        known = [identity for identity in user.identities if identity.searchable_at <= now]
        return [getattr(identity, name) for identity in known]
    value = getattr(user, field, None) if field in _FIELDS else None
    if isinstance(value, float):
        return [iso(value)]
    return [value] if isinstance(value, str) else []


_FIELDS = ("user_id", "email", "name", "created_at", "updated_at", "last_login")
