"""Build one of the programs here that are in Go, Rust, Java or Kotlin, and become it: ``built.py NAME ARGUMENT...``.

It is built once, from a copy of its sources, in ``$XDG_CACHE_HOME/roket-foreign`` (a folder for each state of the
sources), so that nothing is left in the tree. ``built.py --only NAME...`` builds, and starts nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "roket-foreign"


@dataclass(frozen=True)
class Build:
    """How a program is built and started. ``{out}`` is the folder of its build."""

    tool: str
    sources: str
    """A folder of this one, or one file."""
    build: tuple[str, ...]
    run: tuple[str, ...]


def go(name: str) -> Build:
    return Build("go", "go", ("go", "build", "-o", "{out}/program", f"./{name}"), ("{out}/program",))


def rust(name: str) -> Build:
    build = ("cargo", "build", "--quiet", "--release", "--target-dir", "{out}/target")  # all, since they share most
    return Build("cargo", "rust", build, (f"{{out}}/target/release/{name}",))


def maven(sources: str, main: str, *options: str) -> Build:
    run = ("java", "-cp", "{out}/sources/target/classes:{out}/sources/target/lib/*", main)
    return Build("mvn", sources, ("mvn", "--quiet", "--batch-mode", *options, "package"), run)


def java(source: str, main: str) -> Build:
    return Build(
        "javac", source, ("javac", "-d", "{out}/classes", Path(source).name), ("java", "-cp", "{out}/classes", main)
    )


KTOR_OF_THE_STORY, NEWEST_KTOR = "1.5.4", "3.6.1"
BUILDS = {
    "go": go("sockets"),
    "go-http": go("web"),
    "go-clients": go("clients"),
    "tokio": rust("sockets"),
    "axum": rust("web"),
    "java": java("Sockets.java", "Sockets"),
    "java-http": java("web/HttpServers.java", "HttpServers"),
    "java-clients": java("clients/Clients.java", "Clients"),
    "netty": maven("netty", "NettySockets"),
    "ktor": maven("ktor", "SocketsKt", f"-Dktor.version={NEWEST_KTOR}"),
    "ktor-1.5": maven("ktor", "SocketsKt", f"-Dktor.version={KTOR_OF_THE_STORY}", "-Dktor.sources=ktor1"),
}


def built(name: str) -> Path:
    """The folder of the program's build, which is built now if there is none. Another process may be building it.

    :raises FileNotFoundError: its tool chain is not here
    :raises subprocess.CalledProcessError: it cannot be built
    """
    how = BUILDS[name]
    out = CACHE / f"{Path(how.sources).stem}-{digest(how)}"
    if not (out / "done").exists():
        out.mkdir(parents=True, exist_ok=True)
        with locked(out / "lock"):
            if not (out / "done").exists():
                build(how, out)
                (out / "done").touch()
    return out


def build(how: Build, out: Path) -> None:
    source, copy = HERE / how.sources, out / "sources"
    shutil.rmtree(copy, ignore_errors=True)
    if source.is_dir():
        shutil.copytree(source, copy)
    else:
        copy.mkdir()
        shutil.copy(source, copy)
    words = [word.replace("{out}", str(out)) for word in how.build]
    subprocess.run(words, cwd=copy, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)


def digest(how: Build) -> str:
    """Of what is built: the sources and the way."""
    found = hashlib.sha256(repr(how.build).encode())
    source = HERE / how.sources
    for file in sorted(source.rglob("*")) if source.is_dir() else [source]:
        if file.is_file():
            found.update(f"{file.relative_to(HERE)}\0".encode() + file.read_bytes())
    return found.hexdigest()[:16]


@contextmanager
def locked(file: Path) -> Iterator[None]:
    with open(file, "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> None:
    if sys.argv[1] == "--only":
        for name in sys.argv[2:]:
            built(name)
        return
    out = built(sys.argv[1])
    words = [word.replace("{out}", str(out)) for word in BUILDS[sys.argv[1]].run]
    os.execvp(words[0], words + sys.argv[2:])


if __name__ == "__main__":
    main()
