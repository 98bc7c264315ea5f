"""Judges an answer of a token endpoint: four verdicts, because two are not enough.

An expired client secret read as "invalid" would bury every account of a connection, and a
provider's bad hour read as "revoked" has done so to others. So the words of the catalogue decide,
statuses only where no word does, and of several words the mildest wins: numbers beside a word may
excuse a grant, they never condemn one that the word does not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from worker.domain.exchange import Answered, Reading, Salvaged, Verdict
from worker.domain.grant import TokenSet
from worker.providers import expiry, paths
from worker.providers.salvage import as_secret, found_in, parsed
from worker.providers.vocabulary import CodeAt, Entry, Errors

RFC_6749 = Errors(
    codes_at=[CodeAt(path="error"), CodeAt(path="error.code"), CodeAt(path="error.type")],
    permanent=["invalid_grant"],
    config=[
        "invalid_client",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
        "invalid_request",
    ],
    transient=["temporarily_unavailable", "server_error", "slow_down"],
)
LONGEST_WAIT = timedelta(hours=24)
TOO_OFTEN_WAIT = timedelta(minutes=10)  # where a provider calls us too eager, and names no time
_ALWAYS_TRANSIENT = frozenset({408, 425, 429})
_WRONG_ENDPOINT = frozenset({301, 308, 404, 405, 410, 415})
_CODE = re.compile(r"[\w .:/-]{1,48}")
_API = re.compile(r"https://[A-Za-z0-9.-]{1,253}(:\d{1,5})?(/[\w.~/-]{0,200})?")
_NUMBER = re.compile(r"[A-Za-z_.:]+\d{1,12}")  # with its prefix: AADSTS700084
_MILDEST_FIRST = (Verdict.TRANSIENT, Verdict.CONFIG_WRONG, Verdict.GRANT_DEAD)


@dataclass(frozen=True, slots=True)
class Meaning:
    """What one code says."""

    verdict: Verdict
    heals: bool = False
    too_often: bool = False
    if_repeated: bool = False


def meanings(errors: Errors) -> dict[str, Meaning]:
    """RFC 6749 §5.2 with the entry's own words over it."""
    table: dict[str, Meaning] = {}
    for source in (RFC_6749, errors):
        table |= dict.fromkeys(source.permanent, Meaning(Verdict.GRANT_DEAD))
        table |= dict.fromkeys(source.heals, Meaning(Verdict.GRANT_DEAD, heals=True))
        table |= dict.fromkeys(source.config, Meaning(Verdict.CONFIG_WRONG))
        unproven = Meaning(Verdict.CONFIG_WRONG, if_repeated=True)
        table |= dict.fromkeys(source.config_if_repeated, unproven)
        table |= dict.fromkeys(source.transient, Meaning(Verdict.TRANSIENT))
        table |= dict.fromkeys(source.too_often, Meaning(Verdict.TRANSIENT, too_often=True))
    return table


def read(
    entry: Entry, known: Mapping[str, Meaning], answer: Answered, *, asked_at: datetime
) -> Reading:
    """Never raises on what a provider may send. `known` is `meanings(entry.errors)`."""
    content = parsed(answer)
    if 200 <= answer.status < 300 and not _refuses(entry, content):
        found = found_in(content, answer, entry.response_map)
        if found.access_token and (content is not None or _is_broken_json(answer)):
            return _renewed(entry, content, found, answer, asked_at)
        if paths.text_at(content, entry.response_map.access_token):
            return Reading(verdict=Verdict.TRANSIENT, code="bad_access_token")
    return _refused(entry, known, content, answer, asked_at)


def words(entry: Entry, answer: Answered) -> tuple[bool, list[str]]:
    """Whether an answer says yes, and every code it gives (the status as "http_401" too)."""
    content = parsed(answer)
    accepted = 200 <= answer.status < 300 and not _refuses(entry, content)
    places = entry.errors.codes_at or RFC_6749.codes_at
    return accepted, [*_codes(places, content), f"http_{answer.status}"]


def is_busy(answer: Answered) -> bool:
    """A status that says nothing about the question, whatever words stand beside it."""
    return answer.status in _ALWAYS_TRANSIENT or answer.status >= 500


def retry_after(headers: Mapping[str, str], now: datetime) -> timedelta | None:
    """Seconds or an HTTP date (RFC 9110 §10.2.3), at most 24 h; None for nonsense or the past."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    if value.isascii() and value.isdigit():
        # Nine digits are three decades already; more would overflow a timedelta.
        return min(timedelta(seconds=int(value[:9])), LONGEST_WAIT)
    try:
        wait = parsedate_to_datetime(value) - now
    except (ValueError, TypeError, OverflowError):
        return None
    return min(wait, LONGEST_WAIT) if wait > timedelta(0) else None


def _renewed(
    entry: Entry, content: Any, found: Salvaged, answer: Answered, asked_at: datetime
) -> Reading:
    where = entry.response_map
    assert found.access_token is not None
    ends = expiry.told(entry, content, access_token=found.access_token, asked_at=asked_at)
    token_type = paths.text_at(content, where.token_type) or "Bearer"
    tokens = TokenSet(
        access_token=found.access_token,
        refresh_token=found.refresh_token,
        issued_at=asked_at,
        expiry=ends.kind,
        expires_at=ends.at,
        refresh_expires_at=expiry.moment(
            "seconds", paths.first_at(content, where.refresh_expires_in), asked_at
        ),
        scope=_scope(paths.first_at(content, where.scope)),
        token_type=token_type if _CODE.fullmatch(token_type) else "Bearer",
        api_base=_address(paths.text_at(content, where.api_base)) if where.api_base else "",
    )
    problems = [
        ends.problem,
        "" if token_type.lower() in {"bearer", "user", "bot"} else "token_type is unknown",
        "an error stands beside the tokens" if paths.text_at(content, ["error"]) else "",
        "the answer is broken" if answer.cut or content is None else "",
    ]
    return Reading(
        verdict=Verdict.RENEWED,
        code="",
        tokens=tokens,
        account=_account(entry, content),
        problem="; ".join(problem for problem in problems if problem),
    )


def _address(text: str | None) -> str:
    """An https address of one host, for apps; anything else is not told."""
    return text.rstrip("/") if text and _API.fullmatch(text) else ""


def _account(entry: Entry, content: Any) -> str | None:
    """Whose tokens these are, where the answer says so (OpenID Connect Core §12.2)."""
    if not entry.account_claim:
        return None
    id_token = as_secret(paths.text_at(content, ["id_token"]))
    claim = expiry.jwt_claim(id_token, entry.account_claim) if id_token else None
    return claim if isinstance(claim, str) and claim else None


def _refuses(entry: Entry, content: Any) -> bool:
    """Whether a 2xx is a refusal in disguise (`ok: false`)."""
    return bool(entry.errors.ok_at) and paths.everything_at(content, entry.errors.ok_at) == [False]


def _refused(
    entry: Entry,
    known: Mapping[str, Meaning],
    content: Any,
    answer: Answered,
    asked_at: datetime,
) -> Reading:
    codes = [*_codes(entry.errors.codes_at or RFC_6749.codes_at, content)]
    by_word = [known[code] for code in codes if code in known]
    if is_busy(answer):
        meaning = Meaning(Verdict.TRANSIENT)
    elif by_word:
        meaning = min(by_word, key=_mildness)
    else:
        meaning = known.get(f"http_{answer.status}") or _by_status(answer, content)
    wait = retry_after(answer.headers, asked_at)
    return Reading(
        verdict=meaning.verdict,
        code=_told_code(codes, known, meaning) if codes else _code_of_status(answer),
        heals=meaning.heals,
        if_repeated=meaning.if_repeated,
        retry_after=max(wait or TOO_OFTEN_WAIT, TOO_OFTEN_WAIT) if meaning.too_often else wait,
        problem="" if by_word else "no code that the catalogue knows",
    )


def _mildness(meaning: Meaning) -> tuple[int, bool, bool]:
    """Sorts the mildest first; of two that mean "later" the longer wait."""
    later = meaning.too_often or meaning.if_repeated
    return _MILDEST_FIRST.index(meaning.verdict), not meaning.heals, not later


def _told_code(codes: list[str], known: Mapping[str, Meaning], meaning: Meaning) -> str:
    """The provider's own word, and the number beside it that decided, or that says more."""
    first, *others = codes
    deciding = [code for code in others if known.get(code) == meaning]
    more = [*deciding, *filter(_NUMBER.fullmatch, others)][:1]
    told = (code if _CODE.fullmatch(code) else "unreadable" for code in (first, *more))
    return " ".join(dict.fromkeys(told))


def _codes(places: list[CodeAt], content: Any) -> list[str]:
    found = []
    for place in places:
        for value in paths.everything_at(content, place.path):
            if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
                found.append(f"{place.prefix}{value}")
    return found


def _code_of_status(answer: Answered) -> str:
    return "no_access_token" if 200 <= answer.status < 300 else f"http_{answer.status}"


def _by_status(answer: Answered, content: Any) -> Meaning:
    """Without a word: an address that is not a token endpoint, or something that will pass.

    A page instead of JSON is a proxy or a maintenance notice, whatever its status.
    """
    wrong = answer.status in _WRONG_ENDPOINT and not is_page(answer)
    return Meaning(Verdict.CONFIG_WRONG if wrong else Verdict.TRANSIENT)


def _is_broken_json(answer: Answered) -> bool:
    """A JSON object that broke off or does not parse; what it holds in full still counts."""
    return answer.body.lstrip()[:1] == b"{"


def is_page(answer: Answered) -> bool:
    kind = answer.headers.get("content-type", "")
    return "html" in kind or answer.body.lstrip()[:1] == b"<"


def _scope(value: object) -> str | None:
    """As one text; Twitch sends an array."""
    if isinstance(value, list):
        return " ".join(part for part in value if isinstance(part, str)) or None
    return value if isinstance(value, str) else None
