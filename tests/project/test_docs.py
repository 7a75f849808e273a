"""The documentation tells the truth: every code block of every page runs, and shows what it says it shows."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ElementTree
from difflib import unified_diff
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support.docs_blocks import DOCS, LIMIT, ROOT, SET_UP, Block, Desk, Typed, blocks_of, pages, pattern_of, typed_in
from support.programs import missing
from support.roket_command import environment

import roket_trio
import roket_trio.httpcore
import roket_trio.httpx
import roket_trio.staticfiles
import roket_trio.testing
import roket_trio.trio_compat
from roket_trio import pytest_plugin
from roket_trio._cli import COMMANDS
from roket_trio._cli.console import options
from roket_trio._cli.console.exit_codes import ExitCode
from roket_trio.testing import parse_results
from roket_trio.testing._results.case_result import SCHEMA

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the pages are written for a POSIX shell")


def loaded(name: str) -> Any:
    """An extension's module; its directory is in nobody's path."""
    spec = spec_from_file_location(name, DOCS / f"_ext/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = module_from_spec(spec)  # where a dataclass looks for its module
    spec.loader.exec_module(module)
    return module


LADDER = loaded("ladder_svg")
PAGES = pages()
ALL = [block for page in PAGES for block in blocks_of(page)]
PROGRAMS = [block for block in ALL if block.kind == "python" and not block.caption and block.source is None]
NEEDED = ("anycorn", "hypercorn", "starlette", "uvicorn")


def text_of(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def identity(block: Block) -> str:
    return str(block)


def need(block: Block) -> None:
    """Without what a block needs its test is skipped, in CI it fails."""
    for module in NEEDED:
        if re.search(rf"^ *(?:from|import|\$) {module}\b", block.text, flags=re.MULTILINE) and not find_spec(module):
            missing(f"{module} is not installed")


# --- every block is of a kind that is checked -------------------------------------------------------------------------


@pytest.mark.parametrize("block", ALL, ids=identity)
def test_every_block_is_of_a_kind_that_is_checked(block: Block) -> None:
    if block.kind == "text" and not block.caption:
        before = {after: before for before, after in pairwise(blocks_of(block.page))}.get(block)
        assert before in PROGRAMS, "what a program prints follows it at once"
    elif block.source is not None and not block.caption:
        assert block.source.parent == ROOT / "examples", "tests/examples/test_examples.py runs what is shown"
    elif block.caption and block.kind != "console":
        assert block.kind in ("python", "ini", "sh", "text", "toml", "yaml")
    else:
        assert block.kind in ("python", "console", "diff", "json")


@pytest.mark.parametrize("page", PAGES)
def test_no_code_stands_outside_of_blocks(page: str) -> None:
    assert not re.search(r"::\n\n +\S", re.sub(r"^ *\.\. .*$", "", text_of(page), flags=re.MULTILINE))
    assert ".. code::" not in text_of(page)
    assert ".. highlight::" not in text_of(page)


@pytest.mark.parametrize("page", PAGES)
def test_saved_files_are_used(page: str) -> None:
    typed = "\n".join(block.text for block in blocks_of(page) if block.kind == "console")
    files = {block.caption: block for block in blocks_of(page) if block.caption and block.kind != "console"}
    code = "\n".join(block.text for block in files.values())
    for name in files:
        is_imported = re.search(rf"^(import|from) {Path(name).stem}\b", code, flags=re.MULTILINE)
        is_configuration = name in ("pytest.ini", "pyproject.toml", "conftest.py")
        is_collected = name.startswith("test_") and re.search(r"^\$ pytest( -\S+| --\S+)*$", typed, flags=re.MULTILINE)
        module = re.search(rf"\b{Path(name).stem}:\w+", typed)
        assert name in typed or module or is_imported or is_configuration or is_collected, f"{name} is never run"


# --- programs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", PROGRAMS, ids=identity)
def test_a_program_runs_and_prints_what_is_shown(block: Block, tmp_path: Path) -> None:
    need(block)
    desk = Desk(make(tmp_path / "desk"))
    (desk.directory / "program.py").write_text(desk.here(block.text), encoding="utf-8")
    printed = run(desk.directory, "program.py")
    followers = dict(pairwise(blocks_of(block.page)))
    after = followers.get(block)
    if after is not None and after.kind == "text":
        shown = desk.here(after.text).splitlines()
    else:
        shown = re.findall(r"print\(.*\)  # (.+)", desk.here(block.text))
    assert re.fullmatch(pattern_of(shown), printed), f"{block} shows\n{shown}\n--- and there was\n{printed}"


def run(place: Path, program: str | Path, *arguments: str) -> str:
    """Run a program with every warning an error; what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", program, *arguments],  # not `-X dev`: asyncio's debug mode has opinions
        cwd=place,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


# --- pages, as typed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [page for page in PAGES if any(block.kind == "console" for block in blocks_of(page))])
def test_a_page_typed_as_written(page: str, tmp_path: Path) -> None:
    blocks = blocks_of(page)
    for block in blocks:
        need(block)
    steps: list[Block | Typed] = []
    for block in blocks:
        if block.kind == "console":
            steps += typed_in(block)
        elif block.caption:
            steps.append(block)
    typed = [step for step in steps if isinstance(step, Typed)]
    desk = Desk(make(tmp_path / "desk"))
    try:
        for step in steps:
            if isinstance(step, Block):
                desk.put(step)
            else:
                later = typed[typed.index(step) + 1 :]
                desk.type(step, next((one for one in later if one.terminal == step.terminal), None))
    finally:
        desk.leave()


def make(directory: Path) -> Path:
    directory.mkdir()
    return directory


@pytest.mark.parametrize("page", PAGES)
def test_what_is_to_be_installed_exists(page: str) -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = set(declared["optional-dependencies"])
    for block in blocks_of(page):
        if block.kind == "console":
            for typed in typed_in(block):
                if SET_UP.fullmatch(typed.what) and typed.what.startswith("pip install "):
                    for requirement in typed.what.removeprefix("pip install ").split():
                        name, _, wanted = requirement.strip("'").partition("[")
                        assert name in {"-e", ".", "../roket_trio", "hypercorn", "pytest", "starlette", "uvicorn"}
                        assert not wanted or set(wanted.rstrip("]").split(",")) <= extras


# --- other kinds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [block for block in ALL if block.kind == "diff"], ids=identity)
def test_a_diff_leads_from_one_program_to_another_that_does_the_same(block: Block, tmp_path: Path) -> None:
    names = re.findall(r"^(?:---|\+\+\+) (\S+)$", block.text, flags=re.MULTILINE)
    old, new = ((DOCS / block.page).parent / name for name in names)
    lines = [path.read_text(encoding="utf-8").splitlines() for path in (old, new)]
    diff = unified_diff(lines[0], lines[1], names[0], names[1], lineterm="")
    assert block.text.splitlines() == [line.rstrip() for line in diff]
    content = bytes(range(256)) * 1000
    found = []
    for program in (old, new):
        place = make(tmp_path / program.stem)
        (place / "some-file").write_bytes(content)
        output = run(place, program, "some-file")
        found.append((output, sorted((path.name, path.read_bytes() == content) for path in place.iterdir())))
    assert found[0] == found[1]


@pytest.mark.parametrize("block", [block for block in ALL if block.kind == "json"], ids=identity)
def test_json_is_a_result_of_the_schema(block: Block) -> None:
    line = json.dumps(json.loads(block.text))
    (result,) = parse_results([line])
    assert json.loads(result.to_json()) == json.loads(block.text)


# --- ladders ----------------------------------------------------------------------------------------------------------


LADDERS = re.findall(
    r"^\.\. ladder:: (.+)\n((?:   :\w+: .+\n)*)\n((?:   .+\n|\n)+)", "\n".join(map(text_of, PAGES)), flags=re.MULTILINE
)


@pytest.mark.parametrize(("title", "options", "lines"), LADDERS, ids=[title for title, *_ in LADDERS])
def test_a_ladder_is_drawn_the_same_each_time_and_can_be_read_aloud(title: str, options: str, lines: str) -> None:
    ends = {"left": "program", "right": "peer", **dict(re.findall(r":(\w+): (.+)", options))}
    written = [line.strip() for line in lines.splitlines() if line.strip()]
    steps = LADDER.parse(written, ends["left"], ends["right"])
    assert len(steps) == len(written)
    pictures = {LADDER.draw(title, steps, ends["left"], ends["right"], "one") for _ in range(2)}
    assert len(pictures) == 1
    svg = ElementTree.fromstring(pictures.pop())
    named = {element.get("id"): element.text for element in svg}
    assert [named[name] for name in str(svg.get("aria-labelledby")).split()] == [
        title,
        " ".join(LADDER.in_words(steps, ends["left"], ends["right"])),
    ]
    width, height = map(int, str(svg.get("viewBox")).split()[2:])
    for element in svg.iter():
        for name, most in {"x": width, "y": height, "x1": width, "y1": height, "x2": width, "y2": height}.items():
            assert 0 <= float(element.get(name, 0)) <= most
        assert not element.get("fill"), "colours are the style sheet's"
        assert not element.get("stroke"), "colours are the style sheet's"


def test_a_line_that_is_no_step_of_a_ladder_is_refused() -> None:
    for line in ["program -> nobody: FIN", "program => peer: FIN", "someone: waits", "peer: " + "x" * 40]:
        with pytest.raises(ValueError, match=re.escape(line)):
            LADDER.parse([line], "program", "peer")
    with pytest.raises(ValueError, match="needs steps"):
        LADDER.parse([], "program", "peer")


# --- the reference is whole -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "module",
    [
        roket_trio,
        roket_trio.testing,
        roket_trio.staticfiles,
        roket_trio.trio_compat,
        roket_trio.httpcore,
        roket_trio.httpx,
    ],
    ids=lambda module: module.__name__,
)
def test_every_public_name_has_its_place_in_the_reference(module: Any) -> None:
    told = "\n".join(text_of(page) for page in PAGES if page.startswith("reference/"))
    for name in module.__all__:
        place = rf"^\.\. auto\w+:: {module.__name__}\.{name}\b|^\.\. py:\w+:: {name}$"
        assert re.search(place, told, flags=re.MULTILINE), name


def test_every_subcommand_and_exit_code_has_its_place() -> None:
    told = text_of("reference/command.rst")
    assert re.findall(r"^\.\. roket-command:: (\w+)$", told, flags=re.MULTILINE) == list(COMMANDS)
    assert set(map(int, re.findall(r"^   \* - (\d+)$", told, flags=re.MULTILINE))) == {*map(int, ExitCode), 130}


def test_everything_that_the_plugin_offers_has_its_place() -> None:
    told = text_of("reference/pytest-plugin.rst")
    source = Path(pytest_plugin.__file__).read_text(encoding="utf-8")
    options = re.findall(r'"(--roket-[\w-]+)"', source)
    settings = re.findall(r'addini\(\s*"(\w+)"', source)
    assert options
    assert settings
    for option in options:
        assert f".. option:: {option}" in told
    for name in settings:
        assert f"``{name}``" in told
    for name in pytest_plugin._FIXTURES:
        assert f"``{name}``:" in told
    for name in pytest_plugin._MARKERS:
        assert f"``@pytest.mark.{name}(" in told


def test_every_example_has_its_place() -> None:
    told = text_of("examples.rst")
    for example in (ROOT / "examples").glob("*.py"):
        assert f"* - ``{example.name}``" in told


def test_links_to_files_lead_somewhere() -> None:
    found = re.findall(r"<([^:>]+\.html)>`__", "\n".join(map(text_of, PAGES)))
    extra = re.findall(r'"\.\./(examples/[\w.]+)"', (DOCS / "conf.py").read_text(encoding="utf-8"))
    assert {Path(link).name for link in found} == {Path(path).name for path in extra}
    for path in extra:
        assert (ROOT / path).is_file()


def test_the_harness_page_has_the_whole_contract() -> None:
    from roket_trio.testing._close_suite import jobs

    told = text_of("harness.rst")
    for name in set(re.findall(r"ROKET_[A-Z_]+", jobs.__doc__ or "")):
        assert f"``{name}``" in told, name
    assert SCHEMA in told
    for directive in ("close-cases", "close-jobs"):
        assert f".. {directive}::" in told


# --- commands that are only named -------------------------------------------------------------------------------------


def named(start: str) -> list[str]:
    """Literals of the pages that begin so."""
    found = re.findall(rf"``({re.escape(start)} [^`]+)``", "\n".join(map(text_of, PAGES)))
    assert found
    return sorted(set(found))


@pytest.mark.parametrize("command", named("roket"))
def test_a_roket_command_that_is_named_exists(command: str) -> None:
    if command == "roket COMMAND ...":
        return
    name, *arguments = shlex.split(command)[1:]
    source = Path(str(import_module(COMMANDS[name].module).__file__)).read_text(encoding="utf-8")
    shared = Path(options.__file__).read_text(encoding="utf-8")
    for option in arguments:
        if option.startswith("-"):
            assert f'"{option}"' in source + shared


@pytest.mark.parametrize("command", named("python -m benchmarks"))
def test_a_benchmark_command_that_is_named_exists(command: str) -> None:
    benchmarks = pytest.importorskip("benchmarks.__main__")
    benchmarks.parser().parse_args(shlex.split(command)[3:])
