"""What a drill saw reaches the reader, whichever process played it."""

from __future__ import annotations

from types import SimpleNamespace

from tests.telling import tell_all


class Reporter:
    def __init__(self, **stats):
        self.stats, self.lines = stats, []

    def section(self, title):
        self.lines.append(f"== {title}")

    def line(self, text):
        self.lines.append(text)


def _report(test, *properties, when="call"):
    return SimpleNamespace(nodeid=f"tests/{test}", when=when, user_properties=list(properties))


def test_what_was_seen_is_told_and_parts_are_told_as_one_sum():
    part = ("counted", {"of": "simulated", "counts": {"seeds": 28, "C1": 3}})
    reporter = Reporter(
        passed=[
            _report("a.py::storm[0]", part),
            _report("a.py::storm[1]", ["counted", part[1]]),  # as it comes from another process
            _report("b.py::drill", ("told", "renewals 7\nkills 2\n")),
            _report("b.py::drill", ("told", "renewals 7\nkills 2\n"), when="teardown"),
        ],
        failed=[_report("c.py::drill", ("told", "lost 1"))],
    )
    tell_all(reporter)
    assert reporter.lines == [
        "== what was seen",
        "b.py::drill",
        "  renewals 7",
        "  kills 2",
        "c.py::drill",
        "  lost 1",
        "simulated",
        "  seeds 56, C1 6",
    ]


def test_where_nothing_was_told_nothing_is_said():
    reporter = Reporter(passed=[_report("a.py::test")])
    tell_all(reporter)
    assert reporter.lines == []


def test_what_is_told_goes_with_the_report(tell, count, request):
    tell("renewals 7")
    count("parts", {"C1": 1})
    assert request.node.user_properties == [
        ("told", "renewals 7"),
        ("counted", {"of": "parts", "counts": {"C1": 1}}),
    ]
    request.node.user_properties.clear()  # nobody is to read it
