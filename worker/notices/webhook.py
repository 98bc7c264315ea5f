"""Notices by HTTPS, signed as Standard Webhooks say (https://www.standardwebhooks.com)."""

from __future__ import annotations

from collections.abc import Collection
from hashlib import sha256
from urllib.parse import urlsplit

import httpx
from standardwebhooks import Webhook

from worker.domain.errors import ConfigurationError, TransientError
from worker.domain.ports import Clock
from worker.domain.secret import Secret
from worker.notices.message import Message


class WebhookSink:
    """Posts each notice to one URL; anything but a 2xx is tried again later."""

    def __init__(
        self,
        url: str,
        secret: Secret,
        *,
        http: httpx.AsyncClient,
        clock: Clock,
        kinds: Collection[str] = (),
        tenants: Collection[str] = (),
    ) -> None:
        """`kinds` and `tenants`: none means all. `http` follows no redirects.

        Raises: ConfigurationError when the secret is no base64 ("whsec_" before it or not).
        """
        self.name = f"webhook:{_shown(url)}"
        self._url = url
        self._http = http
        self._clock = clock
        self._kinds, self._tenants = frozenset(kinds), frozenset(tenants)
        try:
            self._signer = Webhook(secret.text())
        except Exception:
            raise ConfigurationError(
                f"notices: {_shown(url)}: the secret must be base64,"
                " as from `openssl rand -base64 32`"
            ) from None

    def wants(self, message: Message) -> bool:
        return (not self._kinds or message.kind in self._kinds) and (
            not self._tenants or message.tenant in self._tenants
        )

    async def send(self, message: Message) -> None:
        """Raises: TransientError unless the receiver said 2xx."""
        try:
            async with self._http.stream(  # not its answer, which may have no end
                "POST",
                self._url,
                content=message.body,
                headers=self._headers(message),
                timeout=10.0,
            ) as response:
                status, taken = response.status_code, response.is_success
        except httpx.HTTPError as error:
            raise TransientError(f"notice: {type(error).__name__}", code="unreachable") from None
        if not taken:
            raise TransientError(f"notice: {status}", code="not_taken")

    def _headers(self, message: Message) -> dict[str, str]:
        now = self._clock.now()
        message_id = f"{message.tenant}.{message.id}"
        return {
            "content-type": "application/cloudevents+json",
            "user-agent": "evergrant",
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._signer.sign(message_id, now, message.body.decode()),
        }


def _shown(url: str) -> str:
    """For logs and the outbox: path, query and user of a webhook's address are often its secret."""
    return f"{urlsplit(url).hostname}#{sha256(url.encode()).hexdigest()[:8]}"
