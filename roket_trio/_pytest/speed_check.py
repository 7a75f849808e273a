"""What becomes of a test when the speed is measured that it asks for."""

from __future__ import annotations

from typing import final

import pytest

from ..testing._bench.throughput import Throughput as Throughput
from ..testing._results.speed_result import SpeedResult
from .settings import Settings


@final
class SpeedCheck:
    """Holds the results of one test to the marker ``throughput``.

    :param at_most: what the marker says; ``None``: the test has none
    :param lines: gets each result for the report
    """

    def __init__(self, at_most: float | None, settings: Settings, lines: list[str]) -> None:
        self._at_most = at_most
        self._settings = settings
        self._lines = lines
        self._has_measured = False
        self._throughput: Throughput | None = None

    def throughput(self, name: str) -> Throughput:
        """What the fixture gives to the test of that name."""
        self._throughput = Throughput(name, self._at_most, self._take)
        return self._throughput

    def end(self, *, has_failed: bool) -> None:
        """The test is over."""
        __tracebackhide__ = True
        assert self._throughput is not None
        self._throughput.close()
        if self._at_most is not None and not self._has_measured and not has_failed:
            pytest.fail(
                "nothing was measured: @pytest.mark.throughput is for tests that measure by throughput", pytrace=False
            )

    def _take(self, result: SpeedResult) -> None:
        """Note a result, and end the test if that is to be."""
        __tracebackhide__ = True
        self._has_measured = True
        self._lines.append(result.to_json())
        figures = f"{result.job}, {result.mib} MiB: {result.reason}"
        if result.verdict == "fail":
            pytest.fail(figures, pytrace=False)
        if result.verdict == "inconclusive":
            if self._settings.is_strict:
                pytest.fail(f"inconclusive: {figures}", pytrace=False)
            pytest.skip(f"inconclusive: {figures}")
