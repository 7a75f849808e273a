"""Run a suite as it is and with our names, and compare the two test by test."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ElementTree
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import final

from .suites import Suite

# One run of one suite (seconds); far above what it takes.
_LIMIT = 540
# One test of it, where its author has set no limit.
_LIMIT_OF_A_TEST = 60


@final
@dataclass
class Comparison:
    """What came of a suite: how many tests passed as it is and with our names, and which ones differ."""

    suite: Suite
    before: int
    ours: int
    known: dict[str, str] = field(default_factory=dict)
    """Tests that pass with the others' names alone, with the reasons."""
    new: list[str] = field(default_factory=list)
    """The same, without a reason."""
    cured: list[str] = field(default_factory=list)
    """What ``differs`` names and does not differ."""

    @property
    def is_as_expected(self) -> bool:
        return bool(self.before) and not self.new and not self.cured


def unpacked(suite: Suite, directory: Path) -> Path:
    """The source distribution, fetched by pip if it is not there yet."""
    place = directory / f"{suite.name}-{suite.version}"
    if not place.exists():
        place.mkdir(parents=True)
        pip("download", "--no-deps", "--no-binary", suite.name, "-d", place, f"{suite.name}=={suite.version}")
        (archive,) = place.glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(place, filter="data")
    (tree,) = (one for one in place.iterdir() if one.is_dir())
    return tree


def pip(*arguments: str | Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", arguments[0], "-q", *arguments[1:]], check=True
    )


def compare(suite: Suite, directory: Path) -> Comparison:
    """Run the suite twice. What differs without a reason is run once more, since some of their tests are not steady."""
    tree = unpacked(suite, directory)
    before, ours = _passed(suite, tree, ""), _passed(suite, tree, suite.names)
    if any(_reason(suite, test) is None for test in before - ours):
        ours |= _passed(suite, tree, suite.names, "--last-failed", "--last-failed-no-failures=none")
    result = Comparison(suite, len(before), len(ours))
    matched = set()
    for test in sorted(before - ours):
        pattern = _reason(suite, test)
        if pattern is None:
            result.new.append(test)
        else:
            matched.add(pattern)
            result.known[test] = suite.differs[pattern]
    result.cured = sorted(set(suite.differs) - matched)
    return result


def _reason(suite: Suite, test: str) -> str | None:
    """The key in ``suite.differs``, if there is one."""
    return next((one for one in suite.differs if one in test), None)


def _passed(suite: Suite, tree: Path, names: str, *options: str) -> set[str]:
    """Run the suite, and return the tests that pass.

    :raises RuntimeError: they did not run, or not to their end
    """
    report = tree / f"report-{names or 'before'}.xml"
    report.unlink(missing_ok=True)
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "-p", "put_names"),
        *(f"--rootdir={tree}", f"--junitxml={report}", "-o", "junit_family=xunit1"),
        *([f"--timeout={_LIMIT_OF_A_TEST}"] if find_spec("pytest_timeout") else []),
        *(
            f"-pno:{plugin}"
            for plugin in ("roket", "xdist", "asyncio", "trio")
            if f"pytest-{plugin}" not in suite.needs
        ),
        *suite.options,
        *options,
        *suite.tests,
    ]
    variables = {
        **os.environ,
        "PYTHONPATH": os.fspath(Path(__file__).parent),
        "ROKET_NAMES": names,
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    log = report.with_suffix(".log")
    with log.open("wb") as output, suppress(subprocess.TimeoutExpired):
        subprocess.run(
            command,
            cwd=tree,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=_LIMIT,
            check=False,
        )
    if not report.exists():
        raise RuntimeError(f"the tests of {suite.name} did not run:\n{log.read_text(errors='replace')[-3000:]}")
    return _passed_in(report)


def _passed_in(report: Path) -> set[str]:
    return {
        f"{case.get('file', '')}::{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        for case in ElementTree.parse(report).iter("testcase")
        if not any(case.find(what) is not None for what in ("failure", "error", "skipped"))
    }
