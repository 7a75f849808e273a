"""``python -m tests.strangers DIRECTORY [NAME...]``: run the suites, and print what differs, with the reasons.

What they need is installed in the environment that runs this: give it one of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from .comparing import Comparison, compare, pip
from .suites import DRIVEN, SUITES, Driven, Suite


def main(arguments: Sequence[str]) -> int:
    directory = Path(arguments[0]).absolute()
    wanted = set(arguments[1:])
    if unknown := wanted - {one.name for one in (*SUITES, *DRIVEN)}:
        sys.exit(f"there is no suite or program of this name: {', '.join(sorted(unknown))}")
    suites = [suite for suite in SUITES if not wanted or suite.name in wanted]
    driven = [library for library in DRIVEN if not wanted or library.name in wanted]
    libraries: list[Suite | Driven] = [*suites, *driven]
    requirements = {requirement for one in libraries for requirement in (one.requirement, *one.needs)}
    pip("install", "pytest-timeout", *sorted(requirements))
    is_good = True
    print(f"{'library':24}{'names':10}{'before':>8}{'ours':>8}{'seconds':>9}")
    for suite in suites:
        began = time.monotonic()
        comparison = compare(suite, directory)
        seconds = time.monotonic() - began
        print(
            f"{f'{suite.name} {suite.version}':24}{suite.names:10}"
            f"{comparison.before:8}{comparison.ours:8}{seconds:9.0f}",
            flush=True,
        )
        tell(comparison)
        is_good = is_good and comparison.is_as_expected
    for library in driven:
        program = [sys.executable, "-m", f"tests.strangers.programs.{library.name}"]
        names = {**os.environ, "ROKET_NAMES": library.names}
        failed = [loop for loop in library.loops if subprocess.run([*program, loop], env=names, check=False).returncode]
        print(
            f"{f'{library.name} {library.version}':24}a program of ours on {', '.join(library.loops)}:",
            f"FAILED on {', '.join(failed)}" if failed else "all of it works",
            flush=True,
        )
        is_good = is_good and not failed
    return 0 if is_good else 1


def tell(comparison: Comparison) -> None:
    for pattern, reason in comparison.suite.differs.items():
        count = sum(pattern in test for test in comparison.known)
        print(f"    differs: {pattern.removeprefix('::')}, {count} times: {reason}")
    for test in comparison.new:
        print(f"    DIFFERS, and nobody knows why: {test}")
    for pattern in comparison.cured:
        print(f"    DIFFERS NO MORE: {pattern}")
    if not comparison.before:
        print("    NONE OF ITS TESTS PASSED")


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: python -m tests.strangers DIRECTORY [NAME...]")
    sys.exit(main(sys.argv[1:]))
