"""The whole stage: one tenant, its providers, its senders, the ledger, the control desk.

One stage lives in one event loop. It knows its own addresses only once it is bound to ports, so
`bind` opens the connections.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from .buckets import Buckets
from .event_log import EventLog
from .exports import Exports
from .faults import Faults
from .issuer import Issuer
from .ledger import as_json, total
from .management import ManagementApi
from .profiles import Profile, profiles
from .provider import Client, Provider
from .records import Record
from .senders import ActionCall, EventStream, LogStream, authorization_headers
from .tenant import Tenant
from .tenant_tokens import SCOPES, Application, TenantTokens
from .values import Connection
from .world import CONNECTIONS, ConnectionSpec, options_for


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSettings:
    """How a stage is set up. Times in seconds; the same seed gives the same tokens and dice.

    Attributes:
        lifetimes: access-token lifetime by profile name; "*" for all others. Absent: the
            profile's own, so the provider's real one.
        profiles: behaviours besides, or in place of, those that ship.
        visible_after_s: delay between the post-login Action's call and the tokens being readable.
        index_delay_s: delay between a link and its being found by the user search.
        keeps_refresh_token: a login without a refresh token leaves the stored one in place.
        log_reads: reads that return a secret are logged (and streamed) as `mgmt_api_read`.
        pace: scales the senders' waiting times.
    """

    domain: str = "rehearsal.auth0.test"
    client_id: str = "evergrantRehearsal0000000000001"
    client_secret: str = field(default="rehearsal-client-secret", repr=False)
    public_key: str | None = None
    scopes: str = SCOPES
    token_lifetime_s: int = 86_400
    plan: str = "unlimited"
    connections: Sequence[ConnectionSpec] = CONNECTIONS
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    lifetimes: Mapping[str, float] = field(default_factory=dict)
    visible_after_s: float = 0.0
    index_delay_s: float = 0.0
    keeps_refresh_token: bool = False
    log_reads: bool = True
    pace: float = 1.0
    seed: str = "rehearsal"
    clock: Callable[[], float] = time.time


class Stage:
    """Everything that plays, without its doors."""

    def __init__(self, settings: StageSettings) -> None:
        self.settings = settings
        dice = random.Random(settings.seed)  # noqa: S311  # play, not cryptography
        self._dice = dice
        self._ahead = 0.0  # seconds that were skipped
        self.base_url = ""
        self.providers: dict[str, Provider] = {}
        self.provider_urls: dict[str, str] = {}  # base URL of each, by profile name
        self.faults = Faults(clock=self.clock, random_=dice)
        self.events = EventLog(clock=self.clock)
        self.log_streams: list[LogStream] = []
        self.event_streams: list[EventStream] = []
        self.action: ActionCall | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._http: httpx.AsyncClient | None = None
        self.tenant = Tenant(
            domain=settings.domain,
            clock=self.clock,
            random_=dice,
            emit=self._emit,
            on_login=self._call_action,
            visible_after_s=settings.visible_after_s,
            index_delay_s=settings.index_delay_s,
            keeps_refresh_token=settings.keeps_refresh_token,
        )
        application = Application(
            client_id=settings.client_id,
            client_secret=settings.client_secret,
            scopes=settings.scopes,
            public_key=settings.public_key,
            token_lifetime_s=settings.token_lifetime_s,
        )
        self.tokens = TenantTokens(
            application,
            issuer=f"https://{settings.domain}/",
            audiences=self._audiences,
            clock=self.clock,
        )
        self.exports = Exports(self.tenant, base_url=lambda: self.base_url)
        self.management = ManagementApi(
            self.tenant,
            self.tokens,
            buckets=Buckets(settings.plan, clock=self.clock),
            faults=self.faults,
            streams=lambda: self.event_streams,
            log_streams=lambda: self.log_streams,
            events=self.events,
            log_reads=settings.log_reads,
            exports=self.exports,
        )

    def clock(self) -> float:
        """The stage's time, in seconds since the epoch."""
        return self.settings.clock() + self._ahead

    def pass_time(self, seconds: float) -> float:
        """Skip some time: graces close, silence kills, tokens end. Returns what time it is now.

        Whoever looks at a clock of their own, your product too, notices nothing.
        """
        if seconds < 0:
            raise ValueError("time does not run backwards")
        self._ahead += seconds
        return self.clock()

    # ------------------------------------------------------------ setting up

    @property
    def profile_names(self) -> list[str]:
        """Providers in play, in order; each has an address (a port) of its own."""
        return list(dict.fromkeys(spec.profile for spec in self.settings.connections))

    def bind(self, base_url: str, provider_urls: Mapping[str, str]) -> None:
        """The stage stands at these addresses: build the providers, open the connections."""
        self.base_url = base_url
        for name in self.profile_names:
            self.provider_urls[name] = f"{provider_urls[name]}/{name}"
            self.providers[name] = self._provider(name)
        for spec in self.settings.connections:
            self.tenant.add_connection(self._connection(spec))
            if self.tenant.connection(spec.name).strategy == "google-apps":
                self.tenant.consent_as_admin(spec.name, "admin@acme.example")

    def send_to(
        self,
        *,
        logs: Mapping[str, Any] | None = None,
        events: Mapping[str, Any] | None = None,
        actions: Mapping[str, Any] | None = None,
    ) -> None:
        """Start sending to these webhooks, from the log's present end on.

        Each is a mapping: `url` and the fields of `LogStream` (`authorization`, `body_format`, …),
        `EventStream` (`bearer`, or `headers`, `types`), `ActionCall` (`secret`).
        """
        if logs:
            ids = self.tenant.log.ids
            common = {"pace": self.settings.pace, "cursor": ids[-1] if ids else None, **logs}
            types = frozenset(common.pop("types", ()))
            stream = LogStream(log=self.tenant.log, random_=self._dice, types=types, **common)
            self.log_streams.append(stream)
            self._start(stream.run(self._client()))
        if events:
            self._add_event_stream(dict(events))
        if actions:
            self.action = ActionCall(**actions)

    async def stop(self) -> None:
        """Stop sending."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._http is not None:
            await self._http.aclose()

    # ------------------------------------------------------------ looking

    def ledger(self) -> Record:
        """Totals, per provider, and what was sent."""
        per_provider = {
            name: as_json(total(grant.counts for grant in provider.issuer.grants.values()))
            for name, provider in self.providers.items()
        }
        everything = (g.counts for p in self.providers.values() for g in p.issuer.grants.values())
        return {
            "total": as_json(total(everything)),
            "providers": per_provider,
            "grants": sum(len(one.issuer.grants) for one in self.providers.values()),
            "users": len(self.tenant.users),
            "management_requests": self.management.requests,
            "management_refused": self.management.buckets.refused,
            "management_tokens": self.tokens.issued,
            "log_records": len(self.tenant.log.ids),
            "log_streams": [_result(one) for one in self.log_streams],
            "event_streams": [_result(one) for one in self.event_streams],
            "action_calls": _result(self.action) if self.action else None,
            "faults": self.faults.in_force(),
        }

    def grants(self, provider: str | None = None, subject: str | None = None) -> list[Record]:
        """The ledger per grant."""
        return [
            {
                "provider": name,
                "subject": grant.subject,
                "client_id": grant.client_id,
                "live_families": len(grant.families),
                "consented": grant.consented,
                **as_json(grant.counts),
            }
            for name, one in self.providers.items()
            if provider in (None, name)
            for grant in one.issuer.grants.values()
            if subject in (None, grant.subject)
        ]

    # ------------------------------------------------------------ inside

    def _provider(self, name: str) -> Provider:
        settings = self.settings
        profile = settings.profiles.get(name) or profiles()[name]
        lifetime = settings.lifetimes.get(name, settings.lifetimes.get("*"))
        issuer = Issuer(profile, seed=settings.seed, clock=self.clock, access_lifetime_s=lifetime)
        return Provider(issuer=issuer, faults=self.faults)

    def _connection(self, spec: ConnectionSpec) -> Connection:
        provider = self.providers[spec.profile]
        digest = hashlib.sha256(f"{self.settings.seed}/{spec.name}".encode()).hexdigest()
        client = Client(id=f"{spec.name}-client", secret=f"secret-{digest[:32]}")
        provider.clients[client.id] = client
        credentials = {"client_id": client.id, "client_secret": client.secret}
        url = self.provider_urls[spec.profile]
        return Connection(
            id=f"con_{digest[:16]}",
            name=spec.name,
            strategy=provider.profile.strategy,
            provider=provider,
            options={**options_for(provider.profile, url, credentials), **spec.options},
            top=dict(spec.top),
        )

    def _add_event_stream(self, wanted: dict[str, Any]) -> None:
        headers = dict(wanted.pop("headers", {}))
        if bearer := wanted.pop("bearer", None):
            headers |= authorization_headers("bearer", token=bearer)
        stream = EventStream(
            id="est_rehearsal000000000001",
            headers=headers,
            types=frozenset(wanted.pop("types", ())),
            **{"pace": self.settings.pace, **wanted},
        )
        self.event_streams.append(stream)
        self._start(stream.run(self._client()))

    def _emit(self, event: Record) -> None:
        self.events.write(event)
        for stream in self.event_streams:
            stream.offer(event)

    def _call_action(self, body: Record) -> None:
        if self.action is not None:
            id_ = f"msg_{body['transaction_id']}"
            self._start(self.action.call(self._client(), id_, body))

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _client(self) -> httpx.AsyncClient:
        if self._http is None:
            self._http = httpx.AsyncClient(timeout=10, trust_env=False)
        return self._http

    def _audiences(self) -> tuple[str, ...]:
        return f"https://{self.settings.domain}/api/v2/", f"{self.base_url}/api/v2/"


def _result(sender: LogStream | EventStream | ActionCall) -> Record:
    result = sender.result
    return {
        "url": sender.url,
        "accepted": result.accepted,
        "attempts": result.attempts,
        "failed": result.failed,
        "last_status": result.last_status,
    }
