"""Put the programs of this directory, and some that a system has, to the close suite: ``python matrix.py REPORT.html``.

Run it from the root of the repository, so that the commands in the report can be repeated from there. It takes some
minutes, most of them waiting for sockets that are never closed. What is not installed is left out, and said.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

from roket_trio.testing import CASES, Case, CaseResult, Target, render_html, run_cases

PYTHON = "python -W ignore tests/programs/"
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
    "Node": ("node tests/programs/node.js", "client server"),
    "Java": ("java tests/programs/Idle.java", "client"),
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
    "socat -t5": ("socat -t5 - TCP:{host}:{port}", "client"),
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


def main() -> None:
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
