import json

from kombu import Connection, Exchange

EVENTS = Exchange("evergrant.events", type="topic", durable=True)


def logged_in(broker_url, tenant, user_id, connection, unique_id):
    """Ask Evergrant to read a user's tokens, because he logged in at `connection`."""
    event = {
        "specversion": "1.0",
        "id": unique_id,
        "type": "evergrant.login",
        "source": "urn:your-app",
        "data": {"user_id": user_id, "connection": connection},
    }
    with Connection(broker_url) as broker:
        broker.Producer().publish(
            json.dumps(event),
            exchange=EVENTS,
            declare=[EVENTS],  # needed on Redis, which has no exchanges of its own
            routing_key=f"auth0.{tenant}.login",
            content_type="application/cloudevents+json",
            content_encoding="utf-8",
            delivery_mode=2,  # survives the broker
        )
