"""A world small enough to enumerate: one account, its provider, Auth0's copy, and our grant.

The provider rotates strictly: each renewal kills the refresh token it spends. Auth0's copy is
written by logins only. Ours is decided by the product's own `decide`; this world only carries
the decisions out, in the way the store does, and looks after every step for what may never be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from random import Random

from worker.domain.grant import ExpiryKind, Fingerprint, GrantState
from worker.domain.merge import Decision, Kind, Ours, Theirs, Waiting, Why, decide

NOW = datetime(2026, 11, 23, tzinfo=UTC)
LIVES = NOW + timedelta(hours=1)

Token = tuple[int, int]  # family, link


def fp(token: Token | None) -> Fingerprint | None:
    return None if token is None else Fingerprint(b"%d/%d" % token)


@dataclass(frozen=True)
class Rules:
    """The product's, or a mutant with one of them broken."""

    fenced: bool = True
    remembers: str = "all"  # refresh tokens ever seen; or only Auth0's "last", or "none"


@dataclass(frozen=True)
class Copy:
    token: Token | None
    logins: int
    family: int


@dataclass(frozen=True)
class World:
    latest: tuple[int, ...] = (0,)  # per family: the link that the provider still accepts
    auth0: Copy = Copy((0, 0), 0, 0)
    ours: Token = (0, 0)
    seen: frozenset[Token] = frozenset({(0, 0)})
    last_seen: Token = (0, 0)
    waiting: frozenset[Token] = frozenset()
    login: int = 0  # as last merged
    grant_fence: int = 0
    fences: int = 0  # taken so far
    begun: dict[str, int] = field(default_factory=dict)  # pull → its fence
    began_after: dict[str, int] = field(default_factory=dict)  # pull → logins before it
    read: dict[str, Copy] = field(default_factory=dict)
    informed: int = 0  # logins before the latest begin among the pulls merged
    claimed: Token | None = None
    wrong: tuple[str, ...] = ()

    def login_happens(self, brings: bool = True) -> World:
        family = len(self.latest)
        token = (family, 0) if brings else self.auth0.token
        logins = self.auth0.logins + 1
        return replace(
            self,
            latest=(*self.latest, 0) if brings else self.latest,
            auth0=Copy(token, logins, family if brings else self.auth0.family),
        )

    def renew(self) -> World:
        return self.claim().finish()

    def claim(self) -> World:
        return self if self.claimed else replace(self, claimed=self.ours)

    def finish(self) -> World:
        """The answer is in the store; a login that came meanwhile is promoted (M7)."""
        if self.claimed is None:
            return self
        family, link = self.claimed
        if self.latest[family] != link:
            return replace(self, claimed=None).blame("spent twice")
        latest = tuple(n + 1 if f == family else n for f, n in enumerate(self.latest))
        token = (family, link + 1)
        world = replace(self, latest=latest, seen=self.seen | {token}, claimed=None)
        if self.ours != self.claimed:
            return world.blame("adopted during an exchange")
        promoted = max(self.waiting, default=token)
        return replace(world, ours=promoted, waiting=frozenset()).checked(self)

    def begin(self, pull: str) -> World:
        fence = self.fences + 1
        logins = {**self.began_after, pull: self.auth0.logins}
        return replace(self, fences=fence, begun={**self.begun, pull: fence}, began_after=logins)

    def get(self, pull: str) -> World:
        return replace(self, read={**self.read, pull: self.auth0})

    def merge(self, pull: str, rules: Rules) -> World:
        fence, copy = self.begun[pull], self.read[pull]
        if rules.fenced and fence != self.fences:
            return self  # a later pull has begun
        informed = max(self.informed, self.began_after[pull])
        decision = decide(self._ours(rules), _theirs(copy), fence=fence, now=NOW)
        return self._apply(decision, copy, informed).checked(self)

    def forget(self, pull: str) -> World:
        """The puller crashed, or is done; its name is free."""
        begun = {name: fence for name, fence in self.begun.items() if name != pull}
        read = {name: copy for name, copy in self.read.items() if name != pull}
        return replace(self, begun=begun, read=read)

    def _ours(self, rules: Rules) -> Ours:
        seen = {"all": self.seen, "last": {self.last_seen}, "none": set()}[rules.remembers]
        waiting = {fp(t): Waiting(why=Why.LOGIN, since=NOW) for t in self.waiting}
        return Ours(
            state=GrantState.ACTIVE,
            rt_fp=fp(self.ours) if rules.remembers == "all" else None,
            at_fp=fp(self.ours),
            seen=frozenset(print_ for t in seen if (print_ := fp(t))),
            waiting={print_: why for print_, why in waiting.items() if print_},
            upstream_at_fp=None,
            login=str(self.login),
            scope=None,
            expiry=ExpiryKind.AT,
            expires_at=LIVES,
            in_flight=self.claimed is not None,
            pull_fence=self.grant_fence if rules.fenced else -1,
        )

    def _apply(self, decision: Decision, copy: Copy, informed: int) -> World:
        if decision.why is Why.OVERTAKEN or decision.kind is Kind.LOOK_AGAIN:
            return self
        world = replace(self, grant_fence=self.fences, login=copy.logins, informed=informed)
        if copy.token is None:
            return world
        world = replace(world, seen=world.seen | {copy.token}, last_seen=copy.token)
        match decision.kind:
            case Kind.ADOPT | Kind.PROMOTE:
                return replace(world, ours=copy.token, waiting=world.waiting - {copy.token})
            case Kind.KEEP_CANDIDATE:
                return replace(world, waiting=world.waiting | {copy.token})
            case Kind.QUARANTINE:
                return world.blame("quarantined without a stranger")
            case _:
                return world

    def checked(self, before: World) -> World:
        family, link = self.ours
        if self.latest[family] != link and self.claimed is None:
            return self.blame("a spent token is current")
        if family < before.ours[0]:
            return self.blame("an older login is current")
        return self

    def blame(self, what: str) -> World:
        return replace(self, wrong=(*self.wrong, what))

    @property
    def missed(self) -> bool:
        """A pull that began after the newest login has merged, and that login is not current."""
        newest = self.auth0.family
        return self.informed >= self.auth0.logins and max({self.ours, *self.waiting})[0] != newest


def _theirs(copy: Copy) -> Theirs:
    return Theirs(rt_fp=fp(copy.token), at_fp=None, scope=None, login=str(copy.logins))


Step = Callable[[World, Rules], World]


def chains() -> list[list[Step]]:
    """Two logins, two renewals, a pull merged twice, and a pull that may overlap it."""

    def pull(name: str, merges: int) -> list[Step]:
        return [
            lambda world, _: world.begin(name),
            lambda world, _: world.get(name),
            *[lambda world, rules: world.merge(name, rules)] * merges,
        ]

    login: Step = lambda world, _: world.login_happens()  # noqa: E731 - a step among steps
    renewal: Step = lambda world, _: world.renew()  # noqa: E731 - a step among steps
    return [[login] * 2, [renewal] * 2, pull("first", 2), pull("second", 1)]


def interleavings(rules: Rules, steps: list[list[Step]], world: World) -> Iterator[World]:
    """The end of every order in which the chains can be woven, each chain's own order kept."""
    if not any(steps):
        yield world
    for index, chain in enumerate(steps):
        if chain:
            rest = [*steps[:index], chain[1:], *steps[index + 1 :]]
            yield from interleavings(rules, rest, chain[0](world, rules))


def wander(seed: int, rules: Rules, *, steps: int = 40) -> World:
    """A longer life at random: logins with and without refresh tokens, exchanges that take
    their time, up to four pulls at once, each merged again and again."""
    random = Random(seed)
    world, pulls = World(), [f"pull {n}" for n in range(4)]
    for _ in range(steps):
        pull = random.choice(pulls)
        match random.choice(["login", "claim", "finish", "pull", "pull", "pull", "pull"]):
            case "login":
                world = world.login_happens(brings=random.random() < 0.7)
            case "claim":
                world = world.claim()
            case "finish":
                world = world.finish()
            case _ if pull not in world.begun:
                world = world.begin(pull)
            case _ if pull not in world.read:
                world = world.get(pull)
            case _ if random.random() < 0.6:
                world = world.merge(pull, rules)
            case _:
                world = world.forget(pull)
    return world.finish()
