"""Put the programs of this directory, and some that a system has, to the close suite.

    python tests/foreign/matrix.py examples/close_report.html    # writes the report's page
    python tests/foreign/matrix.py --table README.md             # puts that page's table into the README

Run it from the root of the repository, so that the commands in the report can be repeated from there. It takes six
minutes, most of them waiting for sockets that are never closed. What is not installed is left out, and said.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from roket_trio.testing import CASES, Case, CaseResult, Target, render_html, run_cases

PYTHON = "python -W ignore tests/foreign/"
# name: (command, roles); those with places for host and port are plain pipes.
PROGRAMS: dict[str, tuple[str, str]] = {
    "roket_trio (Trio)": (f"{PYTHON}structured.py roket trio", "client server"),
    "roket_trio (asyncio)": (f"{PYTHON}structured.py roket asyncio", "client server"),
    "roket_trio (uvloop)": (f"{PYTHON}structured.py roket uvloop", "client server"),
    "Trio": (f"{PYTHON}structured.py trio", "client server"),
    "AnyIO (Trio)": (f"{PYTHON}structured.py anyio trio", "client server"),
    "AnyIO (asyncio)": (f"{PYTHON}structured.py anyio asyncio", "client server"),
    "AnyIO (uvloop)": (f"{PYTHON}structured.py anyio uvloop", "client server"),
    "asyncio": (f"{PYTHON}asyncio_streams.py", "client server"),
    "uvloop": (f"{PYTHON}asyncio_streams.py uvloop", "client server"),
    "Node": ("node tests/foreign/node.js", "client server"),
    "Java": ("java tests/foreign/Sockets.java", "client server"),
    "httpx (Trio)": (f"{PYTHON}pools.py httpx-trio", "client"),
    "httpx (asyncio)": (f"{PYTHON}pools.py httpx-asyncio", "client"),
    "requests": (f"{PYTHON}pools.py requests", "client"),
    "aiohttp": (f"{PYTHON}pools.py aiohttp", "client"),
    "curl telnet://": ("curl -sN telnet://{host}:{port}", "client"),
    "nc (OpenBSD)": ("nc.openbsd {host} {port}", "client"),
    "nc -N": ("nc.openbsd -N {host} {port}", "client"),
    "ncat": ("ncat {host} {port}", "client"),
    "ncat --no-shutdown": ("ncat --no-shutdown {host} {port}", "client"),
    "socat": ("socat - TCP:{host}:{port}", "client"),
    "socat -t3": ("socat -t3 - TCP:{host}:{port}", "client"),
    "bash /dev/tcp": ("bash -c 'exec 3<>/dev/tcp/$0/$1; cat <&3 & cat >&3; wait' {host} {port}", "client"),
}


def put_to_the_suite(name: str, command: str, role: str) -> list[CaseResult]:
    """Every case that is for it and that it can do."""
    words = shlex.split(command)
    words[0] = sys.executable if words[0] == "python" else words[0]
    target = Target.from_command(shlex.join(words), role, name=name, start_seconds=30)  # type: ignore[arg-type]
    cases = [case for case in CASES if case.is_for(target.role, target.speaks)]

    def repro(case: Case) -> str:
        return f"roket check --{role} {shlex.quote(command)} --case {case.address}"

    results = list(run_cases(cases, target, at_once=8, repro=repro))
    return [result for result in results if result.verdict != "unsupported"]


# --- the README's table ----------------------------------------------------------------------------------------------

COLUMNS = ("roket_trio (Trio)", "Trio", "AnyIO (Trio)", "AnyIO (asyncio)", "asyncio", "Node", "Java")
BEGIN, END = "<!-- close suite: begin -->", "<!-- close suite: end -->"
REPORT = Path(__file__).parents[2] / "examples" / "close_report.html"


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
    if sys.argv[1] == "--table":
        put_into(Path(sys.argv[2]))
        return
    results: list[CaseResult] = []
    for name, (command, roles) in PROGRAMS.items():
        program = shlex.split(command)[0]
        if program != "python" and shutil.which(program) is None:
            print(f"{name}: {program} is not installed")
            continue
        for role in roles.split():
            found = put_to_the_suite(name, command, role)
            failed = [result.case for result in found if result.verdict == "fail"]
            print(f"{name} ({role}): {len(found)} cases, {len(failed)} failed: {' '.join(failed)}", flush=True)
            results += found
    Path(sys.argv[1]).write_text(render_html(results), encoding="utf-8")


if __name__ == "__main__":
    main()
