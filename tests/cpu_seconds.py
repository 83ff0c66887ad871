"""CPU seconds of a run of the tests: a pytest plugin that prints the ten most expensive files and the sum.

Seconds of a shared machine's clock mean nothing; CPU seconds, user and system, repeat. Counted are every pytest
process (the workers of xdist too) and all processes that tests started and waited for.
"""

import os
from collections import Counter
from collections.abc import Iterator

import pytest

_OUTPUT = "cpu_seconds"
# What belongs to no file: starting Python, pytest and its plugins.
_REST = "(start and end of pytest)"


def _cpu_seconds() -> float:
    """Of this process and of its children that have ended and were waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class CpuSeconds:
    """Counts this process by file; the controller of xdist adds what its workers counted."""

    def __init__(self) -> None:
        self.by_file: Counter[str] = Counter()

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector: pytest.Collector) -> Iterator[None]:
        """A file is imported while it is collected."""
        return (yield from self._counted(collector))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Fixtures are counted with the first test that asks for them."""
        return (yield from self._counted(item))

    def _counted(self, node: pytest.Item | pytest.Collector) -> Iterator[None]:
        before = _cpu_seconds()
        try:
            return (yield)
        finally:
            self.by_file[node.nodeid.split("::")[0] or "."] += _cpu_seconds() - before

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """A worker hands its counts to the controller."""
        self.by_file[_REST] += _cpu_seconds() - self.by_file.total()
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output[_OUTPUT] = dict(self.by_file)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: object) -> None:
        """A worker has ended."""
        self.by_file.update(getattr(node, "workeroutput", {}).get(_OUTPUT, {}))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The ten most expensive files and the sum."""
        terminalreporter.section("CPU seconds (user + system, processes that tests started too)")
        for name, seconds in self.by_file.most_common(10):
            terminalreporter.write_line(f"{seconds:8.1f}  {name}")
        terminalreporter.write_line(f"{self.by_file.total():8.1f}  sum")


def pytest_configure(config: pytest.Config) -> None:
    """Workers count too."""
    config.pluginmanager.register(CpuSeconds(), "cpu seconds")
