"""The Celery application: one set of settings for all brokers, and one for each.

Sources: https://docs.celeryq.dev/en/stable/userguide/configuration.html and
https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/ ; the choices were
measured under kill -9 of workers and broker (docs/operating.md tells which and why).
"""

from __future__ import annotations

import difflib
import logging
import os
import socket
import ssl
from collections.abc import Collection, Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from celery import Celery
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.transport import TRANSPORT_ALIASES

from worker.domain.errors import ConfigurationError
from worker.settings import Settings, private_place

EVENTS, UPKEEP = "events", "upkeep"
_THERE_ARE = (
    f"there are {EVENTS}, {UPKEEP} and renew.ENTRY for each entry of `evergrant providers list`"
)
EXPIRES = 60  # seconds; a hint that waited longer is superseded by a later tick's

_WORK = "evergrant.work"
_RAW = "evergrant.events"
_VISIBILITY = 300  # seconds; the shortest of all processes on one Redis wins, so it is fixed


def queue_of(task: str) -> str:
    """The queue a task travels in: each provider has its own, so none waits behind another."""
    if task.startswith("renew."):
        return task
    return EVENTS if task.startswith("events.") else UPKEEP


def queue_names(entries: Iterable[str]) -> list[str]:
    return [EVENTS, UPKEEP, *(f"renew.{entry}" for entry in entries)]


def celery_app(settings: Settings, entries: Iterable[str]) -> Celery:
    """The application for these settings; `entries` are the catalogue's names."""
    app = Celery("evergrant", broker=settings.broker_url, set_as_current=False)
    app.conf.update(_common(settings))
    app.conf.update(_for_broker(settings))
    app.conf.task_queues = [_queue(name, app.conf) for name in queue_names(entries)]
    app.conf.task_routes = (_route,)
    return app


def _route(name: str, *_rest: Any, **_more: Any) -> dict[str, str]:
    queue = queue_of(name)
    return {"queue": queue, "routing_key": queue}


def _queue(name: str, conf: Any) -> Queue:
    exchange = Exchange(_WORK, type="direct", durable=True)
    arguments = {"x-queue-type": "quorum"} if conf.task_default_queue_type == "quorum" else None
    return Queue(name, exchange, routing_key=name, durable=True, queue_arguments=arguments)


def _common(settings: Settings) -> Mapping[str, Any]:
    return {
        "task_serializer": "json",
        "accept_content": ["json"],  # a pickle or yaml body is refused unread
        "task_ignore_result": True,  # the store holds what came of it
        "result_backend": None,
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,  # without it late ack still loses on kill -9
        "task_default_queue": UPKEEP,
        "task_create_missing_queues": False,  # a forged name opens no queue
        "task_send_sent_event": False,  # makes a metrics label of every publisher's pid
        "worker_send_task_events": True,  # cheap here: a task is a batch, not a token
        "worker_pool": "threads",
        "worker_concurrency": settings.concurrency,
        "worker_consumer": "worker.queue.worker_consumer:Consumer",
        "worker_prefetch_multiplier": 1,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        # Exchanges under way are never cut: they may hold the only copy of a rotated token. On
        # SIGTERM the engine takes no new claims and the worker waits for the rest.
        "worker_soft_shutdown_timeout": 150,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_enable_remote_control": True,
        "worker_log_color": False,
        "broker_connection_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # a broker that comes back finds us waiting
        "broker_connection_timeout": 4,
        "broker_channel_error_retry": True,  # else RabbitMQ's consumer_timeout ends the process
        "broker_pool_limit": 10,
        "beat_scheduler": "worker.tasks.beat:StoreScheduler",
        "beat_max_loop_interval": settings.tick.total_seconds(),
        "timezone": "UTC",
    }


def _for_broker(settings: Settings) -> Mapping[str, Any]:
    scheme = settings.broker_url.split(":", 1)[0].split("+", 1)[0]
    if scheme in ("amqp", "amqps", "pyamqp"):
        return {**_rabbitmq(), **_tls(scheme)}
    if scheme in ("redis", "rediss"):
        return {**_redis(), **_tls(scheme)}
    if scheme == "filesystem":
        return _files(settings.data_dir / "queue")
    return {"broker_transport_options": {"polling_interval": 0.1}, "worker_prefetch_multiplier": 16}


def _tls(scheme: str) -> Mapping[str, Any]:
    """kombu by itself takes any host's certificate for amqps, and any certificate for rediss.

    It puts the broker's name in the place of None, into this very dict; what the URL says wins.
    """
    if scheme == "amqps":
        return {"broker_use_ssl": {"server_hostname": None}}
    if scheme == "rediss":
        return {"broker_use_ssl": {"ssl_cert_reqs": ssl.CERT_REQUIRED}}
    return {}


def _rabbitmq() -> Mapping[str, Any]:
    return {
        "task_default_queue_type": "quorum",
        "task_create_missing_queue_type": "quorum",
        # Without confirms a killed broker loses what it had not written yet.
        "broker_transport_options": {"confirm_publish": True},
    }


def _redis() -> Mapping[str, Any]:
    return {
        "broker_transport_options": {
            "visibility_timeout": _VISIBILITY,
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            # redis-py waits for ever by default: a silent server would hang every publisher
            "socket_timeout": 10,
            "socket_connect_timeout": 4,
            "socket_keepalive": True,
            "health_check_interval": 15,
            "global_keyprefix": "evergrant:",
            "priority_steps": [0],  # one list per queue instead of four in every BRPOP
        },
    }


def as_others_see(connection: Connection) -> Connection:
    """The same broker without our prefix on Redis: whoever publishes, or listens, has none.

    Of its own it keeps the lists of what is not acked yet: under the common names another
    program's messages would be given out again after our time-out. Elsewhere the same connection.
    """
    options = dict(connection.transport_options or {})
    if not options.pop("global_keyprefix", None):
        return connection
    options.pop("priority_steps", None)  # others may set priorities
    mine = {f"unacked{part}_key": f"{_RAW}.unacked{part}" for part in ("", "_index", "_mutex")}
    seen: Connection = connection.clone(transport_options={**options, **mine})
    return seen


def _files(folder: Path) -> Mapping[str, Any]:
    TRANSPORT_ALIASES["filesystem"] = "worker.queue.files:Transport"
    messages, control = folder / "messages", folder / "control"
    for path in (folder.parent, folder, messages, control, folder / "taken"):
        private_place(path)
    return {
        "broker_transport_options": {
            "data_folder_in": str(messages),
            "data_folder_out": str(messages),
            "control_folder": str(control),
            "processed_folder": str(folder / "taken"),
            "polling_interval": 0.15,
        },
        # A polling transport hands over one prefetch window per poll.
        "worker_prefetch_multiplier": 16,
    }


_LOOKS = {
    *("active", "active_queues", "clock", "conf", "hello", "ping", "query_task", "registered"),
    *("reserved", "revoked", "scheduled", "stats"),
    *("enable_events", "disable_events", "heartbeat"),
}


def looks_only(commands: MutableMapping[str, Any]) -> None:
    """Leave of a worker's remote-control commands those that look, which is all Flower needs.

    Whoever reaches the broker could else shut workers down, or have them serve other queues.
    """
    for name in set(commands) - _LOOKS:
        del commands[name]


def chosen_queues(told: str, app: Celery) -> list[str]:
    """Of a comma separated list; none: all. Raises: ConfigurationError, there is none so named."""
    known = [queue.name for queue in app.conf.task_queues]
    chosen = [name for word in told.split(",") if (name := word.strip())]
    for name in chosen:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            meant = f"did you mean {close[0]}?" if close else _THERE_ARE
            raise ConfigurationError(f"no queue {name!r}; {meant}", code="no_queue")
    return chosen


def worker_options(
    *, concurrency: int, queues: Collection[str] = (), name: str = ""
) -> dict[str, Any]:
    """What `app.Worker` is made with: `celery worker`, without its command line.

    That brings Flower, a shell and its completion into every worker: ten megabytes.
    """
    return {
        "concurrency": concurrency,
        "queues": list(queues) or None,
        "hostname": f"{name or f'evergrant-{os.getpid()}'}@{socket.gethostname()}",
        "pool": "threads",
        "task_events": True,
        "without_gossip": True,  # both only cost messages here
        "without_mingle": True,
        "loglevel": logging.INFO,
        "quiet": True,  # no banner; it lists a hundred queues
    }
