"""The product where Auth0 reaches no door of ours, and broker and scheduler are no help."""

from tests.cli.conftest import CONNECTIONS, Running
from worker.cli.demo_product import running
from worker.rehearsal import StageSettings, rehearsal, write_config

DEAD = "redis://127.0.0.1:1/0"


def test_logins_are_found_by_asking(tmp_path):
    settings = StageSettings(lifetimes={"*": 20}, connections=CONNECTIONS)
    with rehearsal(settings) as stage:
        config = write_config(tmp_path / "evergrant.toml", stage.stage)
        text = config.read_text()
        config.write_text(text.replace("\ndomain =", "\nevents_api = true\ndomain =", 1))
        environment = {
            "EVERGRANT_CONFIG": str(config),
            "EVERGRANT_ALLOW_LOOPBACK": "1",
            "EVERGRANT_TICK": "0.5",
            "EVERGRANT_BROKER_URL": DEAD,
            "EVERGRANT_POLL_LOGS": "false",
        }
        with running(tmp_path, environment) as product:
            it = Running(stage, product, tmp_path, environment)
            it.wait_for(lambda: stage.ledger()["management_requests"].get("events"))
            it.login("google-oauth2", "rosa")
            it.wait_for(lambda: product.status()["providers"])
