"""What is installed: metadata, types, files, and a test configuration without traps."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections import Counter
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

import pytest
from support.measured import MEASURED, work_unit

import roket_trio

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed() -> Distribution:
    return distribution("roket-trio")


@pytest.fixture(scope="module")
def declared() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower() for requirement in requirements}


def test_identity(installed: Distribution) -> None:
    metadata = installed.metadata
    assert metadata["Name"] == "roket-trio"
    assert metadata["Version"] == roket_trio.__version__
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"


def test_runtime_dependencies_are_trio_and_anyio(installed: Distribution) -> None:
    requirements = installed.requires or []
    assert names([r for r in requirements if "extra ==" not in r]) == {"anyio", "trio"}


def test_runtime_floors_can_be_pinned(declared: dict[str, Any]) -> None:
    # CI turns each `>=` into `==` for the run with the lowest versions.
    for requirement in declared["project"]["dependencies"]:
        assert re.fullmatch(r"\w+>=\d+(\.\d+)*", requirement)


def test_extras(installed: Distribution, declared: dict[str, Any]) -> None:
    provided = set(installed.metadata.get_all("Provides-Extra") or ())
    assert {"bench", "cli", "test"} <= provided
    assert provided == set(declared["project"]["optional-dependencies"])


def test_types_are_shipped() -> None:
    assert (Path(roket_trio.__file__).parent / "py.typed").is_file()


def test_a_wheel_holds_the_package_and_nothing_else(installed: Distribution) -> None:
    if json.loads(installed.read_text("direct_url.json") or "{}").get("dir_info", {}).get("editable"):
        pytest.skip("an editable install; CI runs this against the wheel")
    assert installed.files
    inside = [path for path in installed.files if path.parts[0] != ".."]
    assert {path.stem for path in set(installed.files) - set(inside)} == {"roket"}  # the command, in bin
    assert {path.parts[0] for path in inside if not path.parts[0].endswith(".dist-info")} == {"roket_trio"}
    assert any(path.name == "LICENSE" for path in installed.files)


def test_pytest_chooses_no_loop_by_itself(declared: dict[str, Any]) -> None:
    # trio_mode runs `anyio[asyncio]` tests under Trio without a word; anyio_mode = auto runs Trio's tests twice.
    options = declared["tool"]["pytest"]["ini_options"]
    assert "trio_mode" not in options
    assert "anyio_mode" not in options


def test_each_file_of_tests_has_a_name_of_its_own() -> None:
    """The folders are no packages: pytest imports the files by their names, and refuses a run with two of one name."""
    count = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name in count if count[name] > 1] == []


def test_pytest_is_strict(declared: dict[str, Any]) -> None:
    options = declared["tool"]["pytest"]["ini_options"]
    assert options["filterwarnings"][0] == "error"
    assert options["xfail_strict"] is True
    assert {"--strict-markers", "--strict-config"} <= set(options["addopts"])


@pytest.mark.parametrize("name", MEASURED)
def test_what_one_worker_does_alone_exists(name: str) -> None:
    """A test that is renamed would lose its place."""
    file, _, function = name.partition("::")
    assert f"def {function or 'test_'}" in (ROOT / file).read_text()
    assert work_unit(f"{file}::{function or 'test_it'}[::1]") == "measured"


def test_the_other_tests_of_a_file_stay_together() -> None:
    assert work_unit("tests/serving/test_serve.py::test_it[::1-trio]") == "tests/serving/test_serve.py"


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["alone", "two workers"])
def test_what_is_left_out_is_listed(workers: list[str]) -> None:
    asked = [*workers, "-k", "table", "tests/testing/test_reports.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *asked],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "\nleft out, 1 in number: tests that load the machine, soak, or measure; " in done.stdout
    assert "\n  tests/testing/test_reports.py (1)\n" in done.stdout
