"""What workers did shows at the web process's /metrics."""

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from worker.monitoring.metrics import StoreCollector, exposition, observe_all

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


AS_CELERY = """
import celery.bin.celery, sys
assert "prometheus_client" in sys.modules, "Flower's plugin brings it: else this shows nothing"
import worker.tasks.app
"""


def test_a_worker_that_celery_starts_counts_with_the_others(tmp_path):
    """`celery -A worker.tasks.app` imports prometheus-client before our settings are read."""
    env = {"EVERGRANT_DATA_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", AS_CELERY + COUNT], env=env, cwd=tmp_path, check=True)
    env = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics")}
    shown = subprocess.run([sys.executable, "-c", SHOW], env=env, check=True, capture_output=True)
    assert b'evergrant_renewals_total{provider="github",verdict="renewed"} 1.0' in shown.stdout


def test_a_scrape_survives_a_store_that_is_away():
    def away():
        raise OSError("no store")

    body, _ = exposition(StoreCollector(away))
    assert b"evergrant_store_up 0.0" in body


def test_gauges_of_the_store_are_shown_with_their_labels():
    rows = [("evergrant_due", "Due now.", ("provider",), [(("github",), 3.0)])]
    body, _ = exposition(StoreCollector(lambda: rows))
    assert b'evergrant_due{provider="github"} 3.0' in body


@given(st.lists(st.sampled_from([-1.0, 0.0, 0.05, 0.1, 0.5, 1.0, 2.5, 10.0, 1e9])))
def test_values_told_together_show_as_those_told_one_by_one(values):
    """The library offers no such call: its next version has to keep what this one reaches into."""

    def histogram():
        registry = CollectorRegistry()
        made = Histogram("h", "h", ["provider"], registry=registry, buckets=(0.1, 1.0, 10.0))
        return registry, made.labels("github")

    one_by_one, single = histogram()
    for value in values:
        single.observe(value)
    together, many = histogram()
    observe_all(many, values)
    assert _samples(together) == _samples(one_by_one)


def _samples(registry):
    return [line for line in generate_latest(registry).splitlines() if b"_created" not in line]


ON_A_FULL_DISK = """
import resource, signal
from worker.monitoring.metrics import EXCHANGE_SECONDS, IN_FLIGHT, RENEWALS
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
RENEWALS.labels("google-oauth2", "renewed").inc()
IN_FLIGHT.labels("google-oauth2").inc()
EXCHANGE_SECONDS.labels("google-oauth2").observe(0.1)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
RENEWALS.labels("google-oauth2", "renewed").inc()
RENEWALS.labels("waad", "renewed").inc()
print(RENEWALS.labels("google-oauth2", "renewed")._value.get(), os.listdir(at))
"""


def test_a_full_disk_ends_nothing_that_is_counted(tmp_path):
    """Counts that would be the first of their file stay in memory; later ones have files again."""
    begin = f"import os; os.environ['PROMETHEUS_MULTIPROC_DIR'] = at = {str(tmp_path)!r}"
    counted = subprocess.run(
        [sys.executable, "-c", begin + ON_A_FULL_DISK], capture_output=True, text=True, check=True
    )
    assert counted.stdout.startswith("2.0")
    assert "counter_" in counted.stdout
