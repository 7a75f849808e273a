"""The public names are handed out on first use: importing the package is cheap, and using it loads nothing foreign."""

from __future__ import annotations

import ast
import errno
import inspect
import json
import os
import pickle
import pydoc
import re
import statistics
import subprocess
import sys
import textwrap
import traceback
import typing
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio

import roket_trio
import roket_trio.httpcore
import roket_trio.httpx
import roket_trio.staticfiles
import roket_trio.testing.fixtures
import roket_trio.trio_compat
from roket_trio._errors import connection_failed
from roket_trio.testing import ListeningPeer, scripts

PACKAGE = Path(roket_trio.__file__).parent
ROOT = Path(__file__).resolve().parents[2]  # the package may be installed elsewhere
SOURCE = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))

# Whoever only needs a system call or a constant pays for no event loop.
KERNEL = [f"roket_trio._kernel.{path.stem}" for path in (PACKAGE / "_kernel").glob("*.py") if path.stem != "__init__"]
WITHOUT_A_LOOP = ["roket_trio", "roket_trio._kernel", *sorted(KERNEL)]


def loaded_by(code: str) -> set[str]:
    """The modules that are there after a fresh interpreter has run ``code``."""
    code += "\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    child = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    return set(json.loads(child.stdout))


RESOLVE_ALL = "import roket_trio\nfor name in roket_trio.__all__: getattr(roket_trio, name)"


@pytest.mark.parametrize("module", WITHOUT_A_LOOP)
def test_importing_it_loads_neither_trio_nor_anyio(module: str) -> None:
    loaded = loaded_by(f"import {module}")
    assert module in loaded
    assert not {name for name in loaded if name.split(".")[0] in ("anyio", "trio", "asyncio", "ssl", "uvloop")}


def test_only_the_modules_for_httpx_load_it() -> None:
    loaded = loaded_by(f"{RESOLVE_ALL}\nimport roket_trio.staticfiles, roket_trio.trio_compat, roket_trio._cli")
    assert not {"httpx", "httpcore", "h11", "roket_trio.httpx", "roket_trio.httpcore"} & loaded
    assert not {"httpx", "roket_trio.httpx"} & loaded_by("import roket_trio.httpcore")


def test_looking_around_loads_neither_trio_nor_anyio() -> None:
    loaded = loaded_by(
        "import roket_trio\ndir(roket_trio), roket_trio.__all__, roket_trio.__version__, roket_trio.__doc__"
    )
    assert not loaded & {"anyio", "trio"}


def test_using_a_name_loads_its_own_module_only() -> None:
    loaded = loaded_by("import roket_trio\nroket_trio.ClosePolicy")
    assert "roket_trio._connection.states" in loaded
    assert not loaded & {"roket_trio._streams.sockets", "roket_trio._files", "roket_trio._net.connect"}


def roots(modules: set[str]) -> set[str]:
    return {name.split(".")[0] for name in modules} - sys.stdlib_module_names


def test_with_every_name_resolved_nothing_but_trio_anyio_and_theirs_is_loaded() -> None:
    everything = loaded_by(RESOLVE_ALL)
    assert "roket_trio._streams.sockets" in everything
    # The backend is what a run of AnyIO loads.
    libraries = loaded_by("import trio, anyio, anyio._backends._asyncio, anyio._backends._trio")
    assert roots(everything) - roots(libraries) == {"roket_trio"}


@pytest.mark.parametrize("name", roket_trio.__all__)
def test_every_public_name_resolves_to_what_its_module_has(name: str) -> None:
    value = getattr(roket_trio, name)
    assert value is getattr(import_module(f"roket_trio.{roket_trio._MODULE_OF[name]}"), name)
    assert value is getattr(roket_trio, name)
    assert inspect.getdoc(value)
    namespace: dict[str, Any] = {}
    exec(f"from roket_trio import {name}", namespace)
    assert namespace[name] is value


def test_a_star_import_brings_exactly_the_public_names() -> None:
    namespace: dict[str, Any] = {}
    exec("from roket_trio import *", namespace)
    assert namespace.keys() - {"__builtins__"} == set(roket_trio.__all__)


def test_what_a_type_checker_sees_is_what_is_handed_out() -> None:
    (guarded,) = [node for node in SOURCE.body if isinstance(node, ast.If)]
    assert isinstance(guarded.test, ast.Name)
    assert guarded.test.id == "TYPE_CHECKING"
    seen = {}
    for node in guarded.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.asname == alias.name  # the form that re-exports (PEP 484)
            seen[alias.name] = node.module
    assert seen == roket_trio._MODULE_OF
    assert roket_trio.__all__ == sorted(seen)


def test_dir_shows_the_public_names_and_nothing_else() -> None:
    child = subprocess.run(
        [sys.executable, "-c", "import roket_trio\nroket_trio.serve\nprint(*dir(roket_trio))"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert child.stdout.split() == roket_trio.__all__


def test_help_begins_with_the_public_names_by_purpose_and_an_example() -> None:
    about = pydoc.plain(pydoc.render_doc(roket_trio))[:3000]
    assert "trio.run(push" in about
    for name in roket_trio.__all__:
        assert f"``{name}``" in about, name


def test_the_example_in_help_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = (roket_trio.__doc__ or "").partition("::\n\n")[2].partition("    trio.run")[0]
    namespace: dict[str, Any] = {}
    exec(textwrap.dedent(example), namespace)
    (tmp_path / "file").write_bytes(bytes(10_000))
    with ListeningPeer(scripts.discard()) as peer:
        trio.run(namespace["push"], str(tmp_path / "file"), peer.host, peer.port)
    assert capsys.readouterr().out == "10000 bytes, acknowledged: True\n"


# AnyIO's own class, so that its name is AnyIO's.
OURS = [name for name in roket_trio.__all__ if name != "EndOfStream"]


@pytest.mark.parametrize("name", OURS)
def test_a_public_name_says_the_package_that_hands_it_out(name: str) -> None:
    value = getattr(roket_trio, name)
    assert f"{value.__module__}.{value.__qualname__}" == f"roket_trio.{name}"
    assert pickle.loads(pickle.dumps(value)) is value


OTHER_PACKAGES = [
    *((roket_trio.testing, name) for name in roket_trio.testing.__all__ if name not in ("CASES", "Script", "scripts")),
    *((roket_trio.testing.fixtures, name) for name in ("ChaosRelays", "ClosePeers", "SocketCensus")),
    *((roket_trio.staticfiles, name) for name in roket_trio.staticfiles.__all__),
    *((roket_trio.trio_compat, name) for name in roket_trio.trio_compat.__all__ if not name.startswith("Socket")),
    (roket_trio.httpcore, "NetworkBackend"),
    (roket_trio.httpx, "AsyncTransport"),
]


@pytest.mark.parametrize(("package", "name"), OTHER_PACKAGES)
def test_a_name_of_another_public_package_says_that_package(package: ModuleType, name: str) -> None:
    value = getattr(package, name)
    assert f"{value.__module__}.{value.__qualname__}" == f"{package.__name__}.{name}"


CLASSES = [name for name in OURS if isinstance(getattr(roket_trio, name), type)]


@pytest.mark.parametrize("name", CLASSES)
def test_the_annotations_of_a_public_class_need_no_resolving(name: str) -> None:
    """pydantic, cattrs and others resolve strings in the module that ``__module__`` names, which lacks the names."""
    value = getattr(roket_trio, name)
    annotations = inspect.get_annotations(value)
    hints = [
        *annotations.values(),
        *(field.type for field in getattr(value, "__dataclass_fields__", {}).values() if field.name in annotations),
    ]
    assert not [hint for hint in hints if isinstance(hint, str | typing.ForwardRef)]


def test_a_traceback_shows_the_public_name_of_an_exception() -> None:
    error = roket_trio.TruncatedError("cut", bytes_moved=3)
    assert traceback.format_exception_only(error) == ["roket_trio.TruncatedError: cut\n"]
    refused = connection_failed("no such socket", errno.ENOENT)
    assert isinstance(refused, FileNotFoundError)
    assert traceback.format_exception_only(refused) == ["roket_trio.ConnectionFailed: no such socket\n"]


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'roket_trio' has no attribute 'conect_tcp'"):
        _ = roket_trio.conect_tcp
    with pytest.raises(ImportError, match="conect_tcp"):
        exec("from roket_trio import conect_tcp")
    assert not hasattr(roket_trio, "__path_of_nothing__")


def test_the_architecture_page_names_every_package_and_module() -> None:
    modules = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    design = (ROOT / "docs" / "design.rst").read_text(encoding="utf-8")
    for module in modules - {"__init__"}:
        assert f"``{module}``" in design, module
    paths = re.findall(r"``(_\w+/\w+\.py)``", design)
    assert len(paths) > 10
    assert not [path for path in paths if not (PACKAGE / path).is_file()]


IMPORTED_IN = """
import time
began = time.process_time()
{}
print((time.process_time() - began) * 1000)
"""


def test_all_names_cost_little_more_than_the_libraries_they_need(tmp_path: Path) -> None:
    """40 ms on an idle machine, by CPU time. Other programs take caches, so the limit is some times that."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}  # as installed

    def milliseconds(code: str) -> float:
        command = [sys.executable, "-c", IMPORTED_IN.format(code)]
        child = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=60)
        return float(child.stdout)

    libraries, everything = "import trio, anyio", f"import trio, anyio\n{RESOLVE_ALL}"
    milliseconds(everything)  # compiles
    # Interleaved, so that whatever slows the machine slows both.
    extra = [-milliseconds(libraries) + milliseconds(everything) for _ in range(7)]
    assert statistics.median(extra) < 150
