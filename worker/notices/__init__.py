"""Telling apps and operators what became of grants: once per episode, ids only.

Notices wait in the outbox until every sink has them: the exchange `evergrant.notices`, signed
webhooks, and the operator's own actions.
"""

from worker.notices.dispatch import ActionSink, Dispatcher, ExchangeSink, Sink
from worker.notices.message import Message, message_of
from worker.notices.webhook import WebhookSink

__all__ = [
    "ActionSink",
    "Dispatcher",
    "ExchangeSink",
    "Message",
    "Sink",
    "WebhookSink",
    "message_of",
]
