"""Run a suite as it is and with our names, and compare the two test by test."""

from __future__ import annotations

import os
import signal
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

# One test, where its author has set no limit (seconds).
_LIMIT_OF_A_TEST = 60
# A suite that has said nothing for so long (seconds) hangs where pytest-timeout has no say. The fixtures of httpx-socks
# and python-socks fork a process that has threads, and its child may wait for a lock for ever.
_LIMIT_OF_SILENCE = 100
# What is not steady, or hangs, or cannot be fetched, is tried so often.
_TRIES = 3


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
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", arguments[0], "-q", *arguments[1:]]
    for _ in range(_TRIES - 1):
        if subprocess.run(command, check=False).returncode == 0:
            return
    subprocess.run(command, check=True)


def compare(suite: Suite, directory: Path) -> Comparison:
    """Run the suite as it is and with our names.

    Some of their tests are not steady. So a test differs if it passes as it is, and fails in ``_TRIES`` runs with our
    names. It differs no more if ``differs`` names it and it passes both ways.
    """
    tree = unpacked(suite, directory)
    before, ours = _passed(suite, tree, ""), _passed(suite, tree, suite.names)
    for _ in range(_TRIES - 1):
        if all(_reason(suite, test) for test in before - ours):
            break
        ours |= _passed(suite, tree, suite.names, "--last-failed", "--last-failed-no-failures=none")
    result = Comparison(suite, len(before), len(ours))
    for test in sorted(before - ours):
        pattern = _reason(suite, test)
        if pattern is None:
            result.new.append(test)
        else:
            result.known[test] = suite.differs[pattern]
    for pattern in sorted(suite.differs):
        passes = any(_reason(suite, test) == pattern for test in before & ours)
        if passes and not any(_reason(suite, test) == pattern for test in result.known):
            result.cured.append(pattern)
    return result


def _reason(suite: Suite, test: str) -> str | None:
    """The key in ``suite.differs``, if there is one."""
    return next((one for one in suite.differs if one in test), None)


def _passed(suite: Suite, tree: Path, names: str, *options: str) -> set[str]:
    """Run the suite, and return the tests that pass.

    :raises RuntimeError: they did not run, or not to their end, several times
    """
    report = tree / f"report-{names or 'before'}.xml"
    report.unlink(missing_ok=True)
    log = report.with_suffix(".log")
    command = [
        *(*command_of(suite, tree), "-p", "put_names", f"--junitxml={report}", "-o", "junit_family=xunit1"),
        *options,
    ]
    for _ in range(_TRIES):
        has_ended = run(command, tree, log, PYTHONPATH=os.fspath(Path(__file__).parent), ROKET_NAMES=names)
        if report.exists():  # pytest writes it at the end of the tests; what hangs after that was judged
            return _passed_in(report)
        if has_ended:
            break
        print(f"    {suite.name} hung", flush=True)
    raise RuntimeError(f"the tests of {suite.name} did not run:\n{log.read_text(errors='replace')[-3000:]}")


def command_of(suite: Suite, tree: Path) -> list[str]:
    """The command that runs the suite's tests, to which options for pytest may be added."""
    return [
        *(sys.executable, "-m", "pytest", *suite.tests, "-q", "-o", "addopts=", f"--rootdir={tree}"),
        *([f"--timeout={_LIMIT_OF_A_TEST}"] if find_spec("pytest_timeout") else []),
        *(
            f"-pno:{plugin}"
            for plugin in ("roket", "xdist", "asyncio", "trio")
            if f"pytest-{plugin}" not in suite.needs
        ),
        *suite.options,
    ]


def run(command: list[str], directory: Path, log: Path, **variables: str) -> bool:
    """Run the command and all that it starts, as long as it writes to the log. Say whether it came to its end."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        size = -1
        while log.stat().st_size != size:
            size = log.stat().st_size
            with suppress(subprocess.TimeoutExpired):
                process.wait(_LIMIT_OF_SILENCE)
                return True
        return False
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _passed_in(report: Path) -> set[str]:
    return {
        f"{case.get('file', '')}::{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        for case in ElementTree.parse(report).iter("testcase")
        if not any(case.find(what) is not None for what in ("failure", "error", "skipped"))
    }
