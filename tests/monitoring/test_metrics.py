"""What workers did shows at the web process's /metrics."""

import subprocess
import sys

from worker.monitoring.metrics import StoreCollector, exposition

COUNT = "from worker.monitoring.metrics import RENEWALS; RENEWALS.labels('github', 'renewed').inc()"
SHOW = "from worker.monitoring.metrics import exposition; print(exposition()[0].decode())"


def test_processes_of_one_data_directory_count_together(tmp_path):
    env = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for _ in range(2):
        subprocess.run([sys.executable, "-c", COUNT], env=env, check=True)
    shown = subprocess.run([sys.executable, "-c", SHOW], env=env, check=True, capture_output=True)
    assert 'evergrant_renewals_total{provider="github",verdict="renewed"} 2.0' in (
        shown.stdout.decode()
    )


def test_a_scrape_survives_a_store_that_is_away():
    def away():
        raise OSError("no store")

    body, _ = exposition(StoreCollector(away))
    assert b"evergrant_store_up 0.0" in body


def test_gauges_of_the_store_are_shown_with_their_labels():
    rows = [("evergrant_due", "Due now.", ("provider",), [(("github",), 3.0)])]
    body, _ = exposition(StoreCollector(lambda: rows))
    assert b'evergrant_due{provider="github"} 3.0' in body
