"""HTTP clients, for the HTTP suite: libraries in programs that follow its contract, and commands that fetch a URL.

A table; pure.
"""

from __future__ import annotations

from foreign.programs import BUILT, HERE, PYTHON, Program

ROLE = ("client",)
LIBRARIES = f"{PYTHON}clients/python_clients.py"


def _library(name: str, words: str, *packages: str) -> Program:
    return Program(name, f"{LIBRARIES} {words}", ROLE, packages=packages)


def _command(name: str, command: str, tool: str, *, tls: bool = False) -> Program:
    return Program(name, command, ROLE, "http", tools=(tool,), tls=tls)


CLIENTS: tuple[Program, ...] = (
    _library("httpx over roket_trio (Trio)", "httpx-roket-trio", "httpx", "roket-trio"),
    _library("httpx over roket_trio (asyncio)", "httpx-roket-asyncio", "httpx", "roket-trio"),
    _library("httpx (Trio)", "httpx-trio", "httpx", "trio"),
    _library("httpx (asyncio)", "httpx-asyncio", "httpx"),
    _library("aiohttp", "aiohttp", "aiohttp"),
    _library("requests", "requests", "requests"),
    _library("urllib3", "urllib3", "urllib3"),
    _library("urllib.request", "urllib"),
    Program(
        "Node fetch",
        f"sh -c 'NODE_EXTRA_CA_CERTS=$ROKET_TLS_CA exec node {HERE}/clients/fetch.mjs'",
        ROLE,
        tools=("node",),
    ),
    Program("Go", f"{BUILT}go-clients", ROLE, tools=("go",), version_option="version", built="go-clients"),
    Program("Java", f"{BUILT}java-clients", ROLE, tools=("java",), built="java-clients"),
    _command("curl", "curl -sSf {url}", "curl"),
    _command("curl, TLS", "curl -sSf --cacert {cafile} {url}", "curl", tls=True),
    _command("curl -T", "curl -sS -T {file} {url}", "curl"),
    _command("wget", "wget -nv -O - {url}", "wget"),
    _command("wget, TLS", "wget -nv -O - --ca-certificate={cafile} {url}", "wget", tls=True),
)
