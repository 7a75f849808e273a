"""Programs of streams and sockets, for the close suite: those here that follow its contract, and tools of the system.

A table; pure. What a tool is cannot be told from its command, so that its row says ``pipe``.
"""

from __future__ import annotations

from foreign.built import KTOR_OF_THE_STORY, NEWEST_KTOR
from foreign.programs import BUILT, HERE, PYTHON, Program

CLIENT = ("client",)
STRUCTURED = f"{PYTHON}structured.py"
POOLS = f"{PYTHON}pools.py"


def _built(name: str, build: str, *tools: str, version: str | None = None, option: str = "--version") -> Program:
    command = f"{BUILT}{build}"
    return Program(name, command, tools=tools, version_option=option, built=build, version_of_build=version)


def _tool(name: str, command: str, tool: str, option: str = "--version") -> Program:
    return Program(name, command, CLIENT, "pipe", tools=(tool,), version_option=option)


PROGRAMS: tuple[Program, ...] = (
    Program("roket_trio (Trio)", f"{STRUCTURED} roket trio", packages=("roket-trio",)),
    Program("roket_trio (asyncio)", f"{STRUCTURED} roket asyncio", packages=("roket-trio",)),
    Program("roket_trio (uvloop)", f"{STRUCTURED} roket uvloop", packages=("roket-trio", "uvloop")),
    Program("Trio", f"{STRUCTURED} trio", packages=("trio",)),
    Program("AnyIO (Trio)", f"{STRUCTURED} anyio trio", packages=("anyio", "trio")),
    Program("AnyIO (asyncio)", f"{STRUCTURED} anyio asyncio", packages=("anyio",)),
    Program("AnyIO (uvloop)", f"{STRUCTURED} anyio uvloop", packages=("anyio", "uvloop")),
    Program("asyncio", f"{PYTHON}asyncio_streams.py"),
    Program("uvloop", f"{PYTHON}asyncio_streams.py uvloop", packages=("uvloop",)),
    Program("Node", f"node {HERE}/node.js", tools=("node",)),
    Program("Java", f"java {HERE}/Sockets.java", tools=("java",)),
    _built("Go", "go", "go", option="version"),
    _built("tokio", "tokio", "cargo", version="tokio 1.54.1"),
    _built("netty", "netty", "mvn", "java", version="netty 4.2.18.Final"),
    _built("ktor", "ktor", "mvn", "java", version=f"ktor {NEWEST_KTOR}"),
    _built("ktor 1.5", "ktor-1.5", "mvn", "java", version=f"ktor {KTOR_OF_THE_STORY}"),
    Program("httpx (Trio)", f"{POOLS} httpx-trio", CLIENT, packages=("httpx", "trio")),
    Program("httpx (asyncio)", f"{POOLS} httpx-asyncio", CLIENT, packages=("httpx",)),
    Program("requests", f"{POOLS} requests", CLIENT, packages=("requests",)),
    Program("aiohttp", f"{POOLS} aiohttp", CLIENT, packages=("aiohttp",)),
    _tool("curl telnet://", "curl -sN telnet://{host}:{port}", "curl"),
    _tool("nc (OpenBSD)", "nc.openbsd {host} {port}", "nc.openbsd", "-h"),
    _tool("nc -N", "nc.openbsd -N {host} {port}", "nc.openbsd", "-h"),
    _tool("ncat", "ncat {host} {port}", "ncat"),
    _tool("ncat --no-shutdown", "ncat --no-shutdown {host} {port}", "ncat"),
    _tool("socat", "socat - TCP:{host}:{port}", "socat", "-V"),
    _tool("socat -t3", "socat -t3 - TCP:{host}:{port}", "socat", "-V"),
    _tool("bash /dev/tcp", "bash -c 'exec 3<>/dev/tcp/$0/$1; cat <&3 & cat >&3; wait' {host} {port}", "bash"),
)
