"""Celery's consumer without what ETA tasks need, of which there are none here."""

from __future__ import annotations

from typing import ClassVar

from celery.worker.consumer import Consumer as CeleryConsumer


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
