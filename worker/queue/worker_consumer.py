"""Celery's consumer, to which a message is a task's name and nothing else (I21).

Of what a message may say besides, Celery would do much: hold it until a time of its choice, limit
how long it may work, send others when it is done, to any queue. And a body or a header that is not
what Celery takes it for ends the process, which then finds the same message again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar
from uuid import uuid4

from celery.worker.consumer import Consumer as CeleryConsumer

from worker.monitoring.logs import logger

_log = logger(__name__)


class Consumer(CeleryConsumer):
    """Declares no exchanges and queues for native delayed delivery on RabbitMQ, 28 of each.

    Celery binds every quorum queue to them as the worker starts, and warns for each that our
    direct exchange does not take part. We publish nothing with an ETA or a countdown.
    """

    class Blueprint(CeleryConsumer.Blueprint):
        default_steps: ClassVar[list[str]] = [
            step
            for step in CeleryConsumer.Blueprint.default_steps
            if not step.endswith(":DelayedDelivery")
        ]

    def create_task_handler(self, *how: Any, **more: Any) -> Callable[[Any], object]:
        received = super().create_task_handler(*how, **more)

        def on_message(message: Any) -> None:
            headers = message.headers if isinstance(message.headers, dict) else {}
            name = headers.get("task")
            if not isinstance(name, str) or not self._is_ours(name):
                _log.warning("message refused", why="it names no task of ours")
                message.reject_log_error(_log, self.connection_errors)
                return
            _strip(message, name, headers)
            received(message)

        return on_message

    def _is_ours(self, name: str) -> bool:
        return name in self.strategies and not name.startswith("celery.")


def _strip(message: Any, name: str, headers: dict[str, Any]) -> None:
    """Leave its name, its id and when it expires."""
    told, expires = headers.get("id"), headers.get("expires")
    message.headers = {
        "task": name,
        "id": told if isinstance(told, str) and told.isascii() else str(uuid4()),
        "lang": "py",
        **({"expires": expires} if isinstance(expires, str) else {}),
    }
    message.body, message._decoded_cache = "[[], {}, {}]", None
    message.content_type, message.content_encoding = "application/json", "utf-8"
