"""A pytest plugin that writes down what a run has shown: the outcome of each part of each test, and each warning.

It is loaded by its path, in suites that know nothing of this checkout. ``ROKET_RECORD`` names the file.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from typing import Any

_NUMBER = re.compile(r"0x[0-9a-f]+|\d+")  # addresses, ports, descriptors, times

_outcomes: list[str] = []
_warnings: list[str] = []


def pytest_runtest_logreport(report: Any) -> None:
    _outcomes.append(f"{report.nodeid} ({report.when}): {report.outcome}")


def pytest_warning_recorded(
    warning_message: warnings.WarningMessage, when: str, nodeid: str, location: tuple[str, int, str] | None
) -> None:
    what = _NUMBER.sub("N", str(warning_message.message))
    where = f"{warning_message.filename}:{warning_message.lineno}"
    _warnings.append(f"{nodeid or when}: {where}: {warning_message.category.__name__}: {what}")


def pytest_unconfigure() -> None:
    with open(os.environ["ROKET_RECORD"], "w", encoding="utf-8") as file:
        json.dump({"outcomes": _outcomes, "warnings": _warnings}, file)
