"""Runs of pytest inside of a test, with the plugin loaded: for the tests of the plugin."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Final

import pytest

from roket_trio import pytest_plugin

PLUGIN: Final = pytest_plugin.__name__
IS_INSTALLED: Final = any(point.value == PLUGIN for point in entry_points(group="pytest11", name="roket"))
LOAD: Final = () if IS_INSTALLED else ("-p", PLUGIN)

Inner = Callable[..., pytest.RunResult]
"""``inner(code, *arguments)``: run a test module in this process; ``in_process=False``: in another one."""


def in_one_line(result: pytest.RunResult) -> str:
    """The output of a run in one line, for phrases that are broken to the width of a page."""
    return " ".join(result.stdout.str().split())
