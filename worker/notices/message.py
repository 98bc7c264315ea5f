"""A notice as it leaves: a CloudEvent with ids in it, and never a token."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from worker.domain.event import Event, Source, Trigger
from worker.store.notices import PendingNotice


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One notice, ready for any sink."""

    id: str  # the episode: unique per tenant, the same at each try
    tenant: str
    kind: str  # "grant_needs_login", "grant_renewed", …
    at: datetime
    data: dict[str, str]

    @property
    def body(self) -> bytes:
        """CloudEvents 1.0, structured JSON (https://github.com/cloudevents/spec)."""
        event = {
            "specversion": "1.0",
            "id": self.id,
            "type": f"evergrant.{self.kind}",
            "source": f"urn:evergrant:{self.tenant}",
            "time": self.at.isoformat(),
            "datacontenttype": "application/json",
            "data": self.data,
        }
        return json.dumps(event, separators=(",", ":")).encode()

    @property
    def event(self) -> Event | None:
        """The same for the inbox, where the operator's actions run; None: no trigger of theirs."""
        if self.kind not in list(Trigger):
            return None
        return Event(
            tenant=self.tenant,
            trigger=Trigger(self.kind),
            source=Source.OURSELVES,
            delivery_id=self.id,
            occurred_at=self.at,
            user_id=self.data.get("user_id"),
            connection=self.data.get("connection"),
            identity_user_id=self.data.get("identity_user_id"),
            detail={k: v for k, v in self.data.items() if k in ("grant", "reason", "part")},
        )


def message_of(pending: PendingNotice) -> Message:
    """The message of an outbox row."""
    key: dict[str, Any] = pending.notice.get("key") or {}
    told = {
        "tenant": pending.tenant,
        "grant": str(pending.grant_id) if pending.grant_id else None,
        "user_id": pending.notice.get("user_id"),
        "connection": key.get("connection"),
        "identity_user_id": key.get("identity_user_id"),
        "part": key.get("part"),
        "reason": pending.notice.get("reason"),
    }
    return Message(
        id=pending.episode,
        tenant=pending.tenant,
        kind=pending.kind,
        at=pending.created_at,
        data={name: value for name, value in told.items() if value},
    )
