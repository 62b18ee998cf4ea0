"""What each fault test reports: what was lost, what was left over, how long it took. A pytest plugin, see conftest.

A test names its row with ``@pytest.mark.fault("table", "row")``; the table of all rows stands at the end of the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence

import pytest
from fault_world import FaultWorld, Run, until

_PROPERTY = "fault"


class FaultReport:
    """Times one fault and looks at what is left when everything has settled."""

    def __init__(self) -> None:
        self.seconds: float | None = None
        self.lost: list[str] | None = None
        self.left: list[str] = []
        self.note = ""
        self._since = time.monotonic()

    def strikes(self) -> None:
        """The fault happens now."""
        self._since = time.monotonic()

    def mended(self) -> None:
        """What the fault disturbed goes on again, or has ended as it should."""
        self.seconds = time.monotonic() - self._since

    def settles(self, world: FaultWorld, runs: Sequence[Run], *, as_state: str = "finished") -> None:
        """Wait until no lease, waiting job or process of the runs is left; every run must have ended as it should."""
        for run in runs:
            run.ends(as_state)
        if self.seconds is None:
            self.mended()
        self.lost = [f"{run.run_id} is {run.state()}" for run in runs if run.state() != as_state]
        self.nothing_left(world)
        if as_state == "finished":
            repeated = [
                run.run_id for run in runs if len({step for step, _ in run.recorded()}) != len(run.recorded())
            ]
            assert repeated == [], "a score was recorded twice in one attempt"
        assert self.lost == []

    def nothing_left(self, world: FaultWorld) -> None:
        """Wait until no lease, waiting job or stray process is left."""
        jobs = {run.job for run in world.runs}
        until(lambda: world.redis.zcard("lmms:leases") == 0, "the leases to be given up")
        until(lambda: not (set(world.queue.queued()) & jobs), "the queue to be empty")
        until(lambda: not world.strays(), f"stray processes to end: {world.strays()}", 30)
        assert list(world.redis.scan_iter("lmms:lease:*")) == []
        self.lost = self.lost or []
        self.left = world.strays()


@pytest.fixture
def fault(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None], fault_world: FaultWorld
) -> Iterator[FaultReport]:
    """The report of this test, which must look at what is left. Without `box` it begins without any."""
    if "box" not in request.fixturenames:
        fault_world.end_boxes()
    report = FaultReport()
    yield report
    outcome = getattr(request.node, "fault_passed", False)
    marker = request.node.get_closest_marker("fault")
    assert marker is not None, "a fault test names its row"
    if not outcome:
        fault_world.give_up()
    else:
        assert report.lost is not None, "a fault test ends with `settles` or `nothing_left`"
        seconds = f"{report.seconds:.1f}" if report.seconds is not None else "-"
        record_property(
            _PROPERTY,
            [
                *marker.args,
                "; ".join(report.lost) or "nothing",
                "; ".join(report.left) or "nothing",
                seconds,
                report.note,
            ],
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell the fixture whether the test passed."""
    report = yield
    if report.when == "call":
        item.fault_passed = report.passed  # type: ignore[attr-defined]
    return report


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known."""
    config.addinivalue_line("markers", "fault(table, row): a row of the tables of faults (docs/faults.md)")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table."""
    rows = [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == _PROPERTY
    ]
    if not rows:
        return
    terminalreporter.section("faults: lost, left over, seconds")
    for table, row, lost, left, seconds, note in sorted(rows):
        terminalreporter.write_line(f"{table:8} {row:58} {lost:10} {left:10} {seconds:>6}  {note}")
