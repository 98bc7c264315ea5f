"""A provider's own side of its grants: who consented, which tokens live, what a spent one brings.

No HTTP and no time of its own: `clock` gives seconds since the epoch. Every rule is a key of the
profile; nothing here knows a provider's name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .families import Family, Grant, Issued, RefusedError, Spent
from .minting import Mint, Parsed
from .profiles import Profile

Clock = Callable[[], float]
LOGINS = 1  # serial of the access token that a login brings
MOST_SIBLINGS = 64  # live or remembered per family; keeps an endless rehearsal small


class Issuer:
    """The token state of one provider."""

    def __init__(
        self, profile: Profile, *, seed: str, clock: Clock, access_lifetime_s: float | None = None
    ) -> None:
        self.profile = profile
        self.lifetime = access_lifetime_s or profile.access_lifetime_s
        self.grants: dict[tuple[str, str], Grant] = {}
        self._clock = clock
        self._families: dict[int, Family] = {}
        self._count = 0
        self._mint = Mint(
            hashlib.sha256(f"{seed}/{profile.name}".encode()).digest(),
            access_prefix=profile.access_prefix,
            refresh_prefix=profile.refresh_prefix,
            padding=profile.padding,
        )

    # ------------------------------------------------------------ the user's doings

    def login(self, subject: str, client_id: str, *, prompt_consent: bool = False) -> Issued:
        """A login (authorization code exchange): a new family under the account's consent."""
        grant = self.grants.get((subject, client_id))
        if grant is None:
            grant = Grant(subject=subject, client_id=client_id, scope=self.profile.scope)
            self.grants[subject, client_id] = grant
        first = not grant.consented or prompt_consent
        grant.consented = True
        grant.counts.logins += 1
        family = self._begin(grant)
        with_refresh = self.profile.refresh_token == "every_login" or (
            self.profile.refresh_token == "first_consent" and first
        )
        return self._issue(family, 0 if with_refresh else None)

    def withdraw(self, subject: str) -> int:
        """The user takes the consent back at the provider: every token of it dies."""
        mine = [grant for grant in self.grants.values() if grant.subject == subject]
        ended = sum(self._end_grant(grant, "user") for grant in mine)
        for grant in mine:
            grant.counts.revoked_by_user += 1
        return ended

    # ------------------------------------------------------------ the token endpoint

    @contextmanager
    def exchanging(self, token: str) -> Iterator[None]:
        """Around one exchange, from the request's arrival to its last byte: counts overlaps."""
        known = self._subject(token)
        if known is None:
            yield
            return
        family, serial = known
        running = family.in_flight.get(serial, 0)
        family.in_flight[serial] = running + 1
        family.grant.counts.overlaps += running > 0
        try:
            yield
        finally:
            family.in_flight[serial] -= 1
            if not family.in_flight[serial]:
                del family.in_flight[serial]

    def refresh(self, token: str, client_id: str, *, first: bool = False) -> Issued:
        """Spend `token`; `first`: exchange the one of a login. Raises RefusedError."""
        known = self._subject(token)
        if known is None or known[0].grant.client_id != client_id:
            raise RefusedError("dead")
        family, serial = known
        counts = family.grant.counts
        try:
            self._check_alive(family)
            self._check_age(family, token, first=first)
            self._check_pace(family)
            answered = self._rotate(family, serial)
        except RefusedError:
            counts.refused += 1
            raise
        counts.exchanges += 1
        family.used_at = self._clock()
        return self._issue(family, answered)

    def refused_client(self, token: str) -> None:
        """Note that a client could not prove itself while presenting `token`."""
        if known := self._subject(token):
            known[0].grant.counts.refused += 1
            known[0].grant.counts.wrong_client += 1

    def lost(self, issued: Issued) -> None:
        """Note that the answer which carried `issued` never reached the client whole."""
        issued.grant.counts.answers_lost += 1

    # ------------------------------------------------------------ the rest of the provider

    def access(self, token: str) -> Grant | None:
        """Whose API call this is; None when the access token is forged, expired or dead."""
        parsed = self._mint.read("a", token)
        family = self._families.get(parsed.family) if parsed else None
        if parsed is None or family is None:
            return None
        counts = family.grant.counts
        if not self._access_lives(family, parsed):
            counts.stale_reads += 1
            return None
        counts.reads += 1
        if self.profile.grace == "until_access_used":
            family.spent.clear()
        return family.grant

    def secret_of(self, token: str) -> str | None:
        """What an OAuth 1.0a client signs with beside its own secret; None: nothing."""
        return self._mint.secret_of(token) if self.profile.token_secret else None

    def now(self) -> float:
        """The provider's own time."""
        return self._clock()

    def revoke(self, token: str, effect: str, *, kinds: str = "ra") -> bool:
        """The client gives `token` back. Unknown tokens are no error (RFC 7009 section 2.2)."""
        for kind in kinds:
            parsed = self._mint.read(kind, token)
            if parsed and (family := self._families.get(parsed.family)):
                family.grant.counts.revoked_by_us += 1
                self._revoke(family, parsed, effect)
                return True
        return False

    def expires_at(self, token: str) -> float | None:
        """When a live access token ends (introspection); None when it does not live."""
        parsed = self._mint.read("a", token)
        family = self._families.get(parsed.family) if parsed else None
        alive = parsed and family and self._access_lives(family, parsed)
        return parsed.expires_ms / 1000 if parsed and alive else None

    # ------------------------------------------------------------ inside

    def _begin(self, grant: Grant) -> Family:
        self._count += 1
        now = self._clock()
        family = Family(id=self._count, grant=grant, started_at=now, used_at=now, rotated_at=now)
        self._families[family.id] = grant.families[family.id] = family
        while len(grant.families) > self.profile.families:
            self._end(next(iter(grant.families.values())), "limit")
        return family

    def _subject(self, token: str) -> tuple[Family, int] | None:
        kind = "a" if self.profile.grant == "access_token" else "r"
        parsed = self._mint.read(kind, token)
        family = self._families.get(parsed.family) if parsed else None
        return (family, parsed.serial) if parsed and family else None

    def _check_alive(self, family: Family) -> None:
        now, profile = self._clock(), self.profile
        idle = profile.refresh_idle_s and now - family.used_at > profile.refresh_idle_s
        old = profile.refresh_lifetime_s and now - family.started_at > profile.refresh_lifetime_s
        late = profile.refresh_ends_with_access and family.access_until_ms <= now * 1000
        if family.ended or not family.renewable or idle or old or late:
            raise RefusedError("dead")

    def _check_age(self, family: Family, token: str, *, first: bool) -> None:
        now, profile = self._clock(), self.profile
        if profile.early_renewal_s is not None and family.newest_access:
            left = family.used_at + self.lifetime - now
            if left > profile.early_renewal_s:
                raise RefusedError("too_early")
        if profile.grant == "access_token":
            parsed = self._mint.read("a", token)
            if parsed is None or not self._access_lives(family, parsed):
                raise RefusedError("dead")  # an access token that has ended cannot be exchanged
            if self.profile.first and first != (parsed.serial == LOGINS):
                raise RefusedError("bad_request")
            if first:
                return
            age = now - (parsed.expires_ms / 1000 - self.lifetime)
            if age < (profile.not_before_s or 0):
                raise RefusedError("bad_request")

    def _check_pace(self, family: Family) -> None:
        if self.profile.burst:
            now = self._clock()
            family.recent = [at for at in family.recent if at > now - self.profile.burst_s]
            if len(family.recent) >= self.profile.burst:
                raise RefusedError("throttled")
            family.recent.append(now)

    def _rotate(self, family: Family, serial: int) -> int | None:
        """The serial of the refresh token to answer with; None: the answer has none."""
        if self.profile.grant == "access_token":
            return None
        if self.profile.rotation == "none":
            return None if self.profile.omits_refresh else serial
        if self.profile.rotation == "sliding":
            family.newest += 1  # the old ones are never looked at again: all stay good
            return family.newest
        if serial in family.live:
            if self._clock() - family.rotated_at < self.profile.rotates_every_s:
                return serial
            return self._first_use(family, serial)
        return self._use_again(family, serial)

    def _successor(self, family: Family) -> int:
        family.newest += 1
        if len(family.live) >= MOST_SIBLINGS:
            family.live.remove(min(family.live))
        family.live.add(family.newest)
        return family.newest

    def _first_use(self, family: Family, serial: int) -> int:
        family.live.discard(serial)
        family.rotated_at = self._clock()
        family.grant.counts.most_spends = max(family.grant.counts.most_spends, 1)
        if self.profile.grace == "until_used":
            family.spent.clear()  # one of the successors is used: the window before it shuts
        successor = self._successor(family)
        family.spent[serial] = Spent(self._clock(), successor)
        self._forget(family)
        if self.profile.kills_access_after_s is not None:
            floor = (self._clock() + self.profile.kills_access_after_s, family.newest_access + 1)
            family.floors = [*family.floors, floor][-MOST_SIBLINGS:]
        return successor

    def _use_again(self, family: Family, serial: int) -> int:
        counts = family.grant.counts
        spent = family.spent.get(serial)
        if spent is not None:
            spent.times += 1
            counts.most_spends = max(counts.most_spends, spent.times)
            if answered := self._within_grace(family, spent):
                counts.reused_in_grace += 1
                return answered
        counts.most_spends = max(counts.most_spends, 2)
        counts.reused += 1
        if self.profile.reuse == "revoke":
            counts.families_lost += 1
            self._end(family, "reuse")
        raise RefusedError("dead")

    def _within_grace(self, family: Family, spent: Spent) -> int | None:
        profile = self.profile
        in_time = self._clock() - spent.at < profile.grace_s
        if profile.rotation != "single_use_grace" or not in_time:
            return None
        if profile.grace == "same":
            return spent.successor if spent.successor in family.live else None
        sibling = self._successor(family)
        if profile.grace == "newest":
            family.live = {sibling}
        return sibling

    def _forget(self, family: Family) -> None:
        """Drop what is past its grace; a token not remembered is simply one spent long ago."""
        limit = self._clock() - max(self.profile.grace_s, 0)
        while len(family.spent) > 1:
            serial, spent = next(iter(family.spent.items()))
            if spent.at >= limit and len(family.spent) <= MOST_SIBLINGS:
                break
            del family.spent[serial]

    def _issue(self, family: Family, refresh_serial: int | None) -> Issued:
        now = self._clock()
        lifetime = self._next_access(family)
        access = Parsed("a", family.id, family.newest_access, family.access_until_ms)
        refresh = None
        if refresh_serial is not None:
            refresh = self._mint.make(Parsed("r", family.id, refresh_serial, 0))
        return Issued(
            grant=family.grant,
            access_token=self._mint.make(access),
            refresh_token=refresh,
            lifetime=lifetime,
            refresh_lifetime=self._refresh_left(family),
            issued_at=now,
            scope=family.grant.scope,
        )

    def _next_access(self, family: Family) -> float:
        """Make the access token that is answered the family's newest; seconds it has left."""
        now, profile = self._clock(), self.profile
        left = family.access_until_ms / 1000 - now
        if profile.repeats_access and left > self.lifetime / 2:
            return left
        life, ends = self.lifetime, self._refresh_left(family)
        if profile.cuts_access and ends is not None:
            life = min(life, ends)
        family.newest_access += 1
        if profile.first and family.newest_access == LOGINS:
            life = min(life, profile.first["lifetime_s"])
        family.access_until_ms = int((now + life) * 1000)
        return life

    def _refresh_left(self, family: Family) -> float | None:
        """Seconds until the refresh token ends if nobody uses it; None: never."""
        profile = self.profile
        ends = [profile.refresh_idle_s] if profile.refresh_idle_s else []
        if profile.refresh_lifetime_s:
            ends.append(family.started_at + profile.refresh_lifetime_s - self._clock())
        return min(ends, default=None)

    def _access_lives(self, family: Family, parsed: Parsed) -> bool:
        now = self._clock()
        while family.floors and family.floors[0][0] <= now:
            family.access_floor = max(family.access_floor, family.floors.pop(0)[1])
        fresh = parsed.expires_ms > now * 1000
        dead = parsed.serial < family.access_floor or parsed.serial in family.dead_access
        return fresh and not dead and not family.ended

    def _revoke(self, family: Family, parsed: Parsed, effect: str) -> None:
        if effect == "grant":
            self._end_grant(family.grant, "us")
        elif effect == "refresh_token":
            family.renewable = False
        elif effect == "family" or parsed.kind == "r":
            self._end(family, "us")
        else:
            now = self._clock() * 1000
            living = {s: end for s, end in family.dead_access.items() if end > now}
            family.dead_access = {**living, parsed.serial: parsed.expires_ms}

    def _end_grant(self, grant: Grant, why: str) -> int:
        grant.consented = False
        open_ones = [family for family in grant.families.values() if not family.ended]
        for family in open_ones:
            self._end(family, why)
        return len(open_ones)

    def _end(self, family: Family, why: str) -> None:
        grant = family.grant
        family.ended = why
        grant.families.pop(family.id, None)
        grant.ended.append(family.id)
        if len(grant.ended) > 4:  # older ones are forgotten: their tokens are simply unknown
            self._families.pop(grant.ended.popleft(), None)
