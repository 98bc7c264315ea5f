"""What drills and storms saw, told at the end of the run: of what passes pytest shows nothing.

    def test_a_drill(tell):
        tell("renewals 1820, families revoked by us 0")

`count` is for the parts of one thing, which are told as one sum. Both go with the test's report, so
that of tests in several processes all is told in one place.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

Tell = Callable[[object], None]
Count = Callable[[str, Mapping[str, int]], None]
_TOLD, _COUNTED = "told", "counted"
_WHOLE = "\u00a0"  # a space at which no line is broken


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Tell:
    return lambda what: record_property(_TOLD, str(what))


@pytest.fixture
def count(record_property: Callable[[str, object], None]) -> Count:
    return lambda of, counts: record_property(_COUNTED, {"of": of, "counts": dict(counts)})


def tell_all(reporter: pytest.TerminalReporter) -> None:
    sums: dict[str, Counter[str]] = {}
    lines: list[str] = []
    for test, name, value in _properties(reporter):
        if name == _TOLD:
            lines += [test, *(f"  {line}" for line in value.strip().splitlines())]
        elif name == _COUNTED:
            sums.setdefault(value["of"], Counter()).update(value["counts"])
    for of, counts in sums.items():
        told = ", ".join(f"{what} {n}".replace(" ", _WHOLE) for what, n in counts.items())
        lines += [of, *textwrap.wrap(told, 96, initial_indent="  ", subsequent_indent="  ")]
    if lines:
        reporter.section("what was seen")
        for line in lines:
            reporter.line(line.replace(_WHOLE, " "))


def _properties(reporter: pytest.TerminalReporter) -> Iterator[tuple[str, str, Any]]:
    for outcome in ("passed", "failed"):
        for report in reporter.stats.get(outcome, []):
            if getattr(report, "when", None) == "call":
                for name, value in report.user_properties:
                    yield report.nodeid.rpartition("/")[2], name, value
