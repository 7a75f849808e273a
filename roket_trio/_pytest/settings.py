"""What the options, the configuration and the markers of a test ask of the plugin."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Final, NamedTuple, final

import pytest

from ..testing._results.close_verdict import CloseExpectation


class LeakTerms(NamedTuple):
    """What a test must do to pass the leak check."""

    grace: float
    """Its sockets must be closed so many seconds after it is over."""
    ignore: Iterable[str] = ()
    """Shell patterns for sockets that do not count."""


@final
class Settings:
    """The options and the configuration of one pytest process.

    :raises UsageError: a line of the configuration makes no sense
    """

    def __init__(self, config: pytest.Config, *, has_census: bool, is_strict: bool) -> None:
        self.has_census: Final = has_census
        self.is_strict: Final = is_strict
        self.grace: Final = _seconds(config, "roket_grace")
        self.within: Final = _seconds(config, "roket_within")
        self.ignore: Final[list[str]] = config.getini("roket_ignore")
        self.checks_all: Final = bool(config.getini("roket_no_socket_leaks"))
        """Whether every test must leave no socket open, also one without the marker ``no_socket_leaks``."""
        report: str | None = config.getoption("--roket-report")
        self.report_path: Final = None if report is None else os.path.abspath(report)  # a test may change directory
        self.is_worker: Final = hasattr(config, "workerinput")
        """Whether this process is a worker of xdist."""
        self.is_controller: Final = not self.is_worker and getattr(config.option, "dist", "no") != "no"
        """Whether this process only starts workers of xdist, and runs no test itself."""

    def expectation(self, item: pytest.Item) -> CloseExpectation | None:
        """What the marker ``closes`` of a test says; ``None``: the test has none.

        :raises UsageError: it makes no sense
        """
        marker = item.get_closest_marker("closes")
        if marker is None:
            return None
        try:
            default: dict[str, Any] = {} if len(marker.args) > 1 else {"within": self.within}
            return CloseExpectation(*marker.args, **{**default, **marker.kwargs})
        except (TypeError, ValueError) as error:
            raise pytest.UsageError(f"{item.nodeid}: @pytest.mark.closes: {error}") from error

    def leak_terms(self, item: pytest.Item) -> LeakTerms | None:
        """What the marker ``no_socket_leaks`` of a test says; ``None``: the test may leave sockets open.

        :raises UsageError: it makes no sense
        """
        marker = item.get_closest_marker("no_socket_leaks")
        if marker is None:
            return LeakTerms(self.grace) if self.checks_all else None
        try:
            return _terms(*marker.args, **{"grace": self.grace, **marker.kwargs})
        except (TypeError, ValueError) as error:
            raise pytest.UsageError(f"{item.nodeid}: @pytest.mark.no_socket_leaks: {error}") from error

    def speed_limit(self, item: pytest.Item) -> float | None:
        """What the marker ``throughput`` of a test says; ``None``: nothing is asked.

        :raises UsageError: it makes no sense
        """
        marker = item.get_closest_marker("throughput")
        if marker is None:
            return None
        try:
            return _limit(*marker.args, **marker.kwargs)
        except (TypeError, ValueError) as error:
            raise pytest.UsageError(f"{item.nodeid}: @pytest.mark.throughput: {error}") from error


def _limit(at_most: float) -> float:
    if isinstance(at_most, bool) or not isinstance(at_most, int | float) or not 0 < at_most < 1e6:
        raise ValueError(f"at_most={at_most!r} is not a number of times")
    return float(at_most)


def _terms(*, grace: float, ignore: Iterable[str] = ()) -> LeakTerms:
    if isinstance(ignore, str):
        ignore = [ignore]
    if isinstance(grace, bool) or not isinstance(grace, int | float) or not 0 <= grace < 1e6:
        raise ValueError(f"grace={grace!r} is not a time in seconds")
    return LeakTerms(grace, tuple(ignore))


def _seconds(config: pytest.Config, name: str) -> float:
    text = config.getini(name)
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise pytest.UsageError(f"{name} = {text} is not a time in seconds")
    return value
