"""Put the programs of this directory, and some that a system has, to the suites of ``roket check``.

    python tests/foreign/matrix.py close examples/close_report.html    # streams and sockets; writes the report's page
    python tests/foreign/matrix.py http examples/http_report.html      # HTTP servers
    python tests/foreign/matrix.py clients clients.html                # HTTP clients
    python tests/foreign/matrix.py prove                               # no suite: do they serve what they should?
    python tests/foreign/matrix.py table README.md                     # puts the first page's table into the README

Names behind these choose programs: ``matrix.py http page.html hypercorn nginx``. The tables are in
``raw_programs.py``, ``http_servers.py`` and ``http_clients.py``; ``pip install -r tests/foreign/requirements.txt`` has
what the Python programs need. Each program's line begins with its version. What is not installed is left out, and
said. It takes ten minutes for a page, most of them waiting for sockets that are never closed.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script: as the tests have it

from foreign.built import built
from foreign.configured import clean
from foreign.http_clients import CLIENTS
from foreign.http_servers import SERVERS
from foreign.programs import Program
from foreign.proving import ROOT, certificate, prove
from foreign.raw_programs import PROGRAMS

from roket_trio._kernel import procfs
from roket_trio.testing import CaseResult, parse_results, render_html

TABLES = {"close": PROGRAMS, "http": SERVERS, "clients": CLIENTS}
TITLES = {
    "close": "How programs close their sockets",
    "http": "How HTTP servers close their sockets",
    "clients": "What HTTP clients make of answers, and how they close their sockets",
}
GROUPS = {"clients": ["http"]}
"""The groups of cases that a table is for, where it is not for all that fit."""
AT_ONCE, START_SECONDS = 8, 60


def present(programs: tuple[Program, ...], names: list[str]) -> Iterator[Program]:
    """Those of them that are wanted and can run here; the others are said. What must be built is built."""
    for program in programs:
        if names and not any(name in program.name for name in names):
            continue
        missing = program.missing()
        if missing is None and program.built is not None:
            try:
                built(program.built)
            except (OSError, subprocess.CalledProcessError) as error:
                missing = f"a build: {error}"
        if missing is None:
            yield program
        else:
            print(f"{program.name}: ABSENT, it needs {missing}", flush=True)


def command_line(program: Program, role: str, groups: list[str]) -> list[str]:
    """The arguments of ``roket``, so that anybody can repeat them."""
    words = ["check", f"--{role}", program.command, "--name", program.name]
    if program.speaks is not None:
        words += ["--speaks", program.speaks]
    for name, value in program.http.items():
        words += [f"--{name.replace('_', '-')}", value]
    for group in groups:
        words += ["--case", group]
    return [*words, "--tls"] if program.tls else words


def put_to_the_suite(program: Program, role: str, groups: list[str]) -> list[CaseResult]:
    """What ``roket check`` finds. What it cannot be asked is left out; what is left running or says nothing is told."""
    mark = f"FOREIGN_RUN={secrets.token_hex(8)}"
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "results.jsonl"
        words = [sys.executable, "-m", "roket_trio", *command_line(program, role, groups), "--jsonl", str(found)]
        words += ["--at-once", str(AT_ONCE), "--start", str(START_SECONDS)]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        environment = {**os.environ, "PATH": path, **dict([mark.split("=")])}
        began = time.monotonic()
        said = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - began
        lines = found.read_text(encoding="utf-8").splitlines() if found.exists() else []
    results = [one for one in parse_results(lines) if one.verdict != "unsupported"]
    failed = [one.case for one in results if one.verdict == "fail"]
    line = f"{program.name} [{program.version()}] ({role}): {len(results)} cases in {seconds:.0f} s"
    print(f"{line}, {len(failed)} failed: {' '.join(failed)}".rstrip(": "), flush=True)
    if not results:
        print(f"  {shlex.join(words)}\n  ended with {said.returncode}: {said.stderr.strip()[-500:]}", flush=True)
    if left := procfs.with_environment(mark.encode()):
        print(f"  LEFT RUNNING: {left}", flush=True)
    return results


def write_page(suite: str, page: Path, names: list[str]) -> None:
    results: list[CaseResult] = []
    for program in present(TABLES[suite], names):
        for role in program.roles:
            results += put_to_the_suite(program, role, GROUPS.get(suite, []))
    page.write_text(render_html(results, title=TITLES[suite]), encoding="utf-8")


def prove_servers(names: list[str]) -> bool:
    """Whether each server that is here serves what its row says."""
    all_do = True
    with tempfile.TemporaryDirectory() as folder:
        pair = certificate(Path(folder))
        for program in present(SERVERS, names):
            try:
                wrong = prove(program, pair)
            except Exception as error:
                wrong = [repr(error), *getattr(error, "__notes__", [])]
            print(f"{program.name} [{program.version()}]: {'; '.join(wrong) or 'as it says'}", flush=True)
            all_do = all_do and not wrong
    return all_do


# --- the README's table ----------------------------------------------------------------------------------------------

COLUMNS = ("roket_trio (Trio)", "Trio", "AnyIO (Trio)", "AnyIO (asyncio)", "asyncio", "Node", "Java")
BEGIN, END = "<!-- close suite: begin -->", "<!-- close suite: end -->"
REPORT = ROOT / "examples" / "close_report.html"


def table(page: str) -> str:
    """Markdown: the cases in which one of :data:`COLUMNS` failed, as the page of a report has them."""
    found = embedded(page)
    lines = ["| | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for one in found["cases"]:
        cells = [cell(found["results"], one["address"], target) for target in COLUMNS]
        if any(word not in ("ok", "") for word in cells):
            lines.append(f"| {one['title']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(results: list[dict[str, Any]], address: str, target: str) -> str:
    """What the program did, the same in both roles or with the role; nothing where it has no such job."""
    words: dict[str, list[str]] = {}
    for result in results:
        if (result["case"], result["target"]) == (address, target):
            faults = [word for word in (result["data"], result["close"]) if word in FAULTS]
            word = "ok" if result["verdict"] == "pass" else "**" + ", ".join(faults or ["failed"]) + "**"
            words.setdefault(word, []).append(result["role"])
    if len(words) < 2:
        return "".join(words)
    return "; ".join(f"{word} as {' and '.join(roles)}" for word, roles in words.items() if word != "ok")


FAULTS = ("truncated", "corrupt", "hung", "reset", "late", "leaked", "half-open")


def embedded(page: str) -> dict[str, Any]:
    """What the page shows, as it carries it: JSON in a script element."""
    data = page.partition('type="application/json" id="results">')[2].partition("</script>")[0]
    found: dict[str, Any] = json.loads(data)
    return found


def put_into(readme: Path) -> None:
    text = readme.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{BEGIN}\n{table(REPORT.read_text(encoding='utf-8'))}\n{END}{after}", encoding="utf-8")


def main() -> None:
    match sys.argv[1:]:
        case ["table", readme]:
            put_into(Path(readme))
        case ["prove", *names]:
            sys.exit(0 if prove_servers(names) else 1)
        case [("close" | "http" | "clients") as suite, page, *names]:
            write_page(suite, Path(page), names)
            clean()
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
