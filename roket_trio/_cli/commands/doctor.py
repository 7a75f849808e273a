"""``roket doctor``: show what this machine offers."""

from __future__ import annotations

import os
import platform
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from ... import __version__
from .. import probes
from ..console.exit_codes import ExitCode, local_file_error
from ..console.output import print_failure, print_stdout

DESCRIPTION = """\
Show what this machine offers: the system calls that make transfers fast and closes certain, what the test harness can
observe, and the limits that matter. Each is tried, not looked up. Whatever is missing has a fallback, which costs speed
or knowledge, but no bytes."""
EXAMPLES = """\
roket doctor /mnt/big-disk"""


class Capability(NamedTuple):
    """Something that this machine may offer."""

    name: str
    is_available: bool
    detail: str
    """What the probe has found, or why it is not available."""
    use: str
    """What it is good for."""


class CapabilityGroup(NamedTuple):
    """Capabilities that serve one purpose."""

    title: str
    capabilities: list[Capability]


def configure(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "directory",
        metavar="DIR",
        nargs="?",
        default=".",
        help="a directory on the file system to try (default: the current directory)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(options: Namespace) -> int:
    """Print what this machine offers; returns the exit code: 5 if the directory cannot be used."""
    try:
        os.scandir(options.directory).close()
    except OSError as error:
        failure = local_file_error(options.directory, error)
        return print_failure("doctor", failure.code, failure.message)
    groups = examine(options.directory)
    limits = probes.limits()
    about = _about()
    if options.json:
        import json

        found = {
            group.title: {one.name: {"available": one.is_available, "detail": one.detail} for one in group.capabilities}
            for group in groups
        }
        print_stdout(json.dumps({"about": about, **found, "limits": limits, "observer": observer(groups)}))
        return ExitCode.DONE
    facts = [f"{name} {value}" for name, value in about.items()]
    for line in (facts[:-2], facts[-2:]):  # the packages; the interpreter and the system
        print_stdout(", ".join(line))
    width = max(len(one.name) for group in groups for one in group.capabilities)
    for group in groups:
        print_stdout(f"\n{group.title}")
        for one in group.capabilities:
            detail = f" ({one.detail})" if one.detail else ""
            mark = "yes" if one.is_available else "no "
            print_stdout(f"  {one.name.ljust(width)}  {mark}  {one.use}{detail}")
    print_stdout(f"\nthe harness would observe by {observer(groups)}")
    print_stdout("\nlimits")
    width = max(map(len, limits))
    for name, value in limits.items():
        print_stdout(f"  {name.ljust(width)}  {value}")
    return ExitCode.DONE


def examine(directory: str) -> list[CapabilityGroup]:
    """Try everything; the file system is that of ``directory``."""
    file_system = probes.file_system(directory)

    def on_disk(probe: Callable[[str], object]) -> Callable[[], object]:
        return lambda: probe(directory)

    return [
        _tried(
            "speed",
            ("sendfile", probes.sendfile, "file to socket without a copy"),
            ("splice", probes.splice, "socket to file and to socket without a copy"),
            ("copy_file_range", on_disk(probes.copy_file_range), "file to file within the file system"),
            ("RWF_NOWAIT", on_disk(probes.cached_reads), f"cached pages without a thread, on {file_system}"),
            ("uvloop", lambda: version("uvloop"), "an event loop that asyncio can use"),
        ),
        _tried(
            "closing",
            ("TCP_INFO", probes.tcp_info, "what the peer has acknowledged"),
            ("epoll", probes.epoll, "the peer's FIN, and its ACK of our FIN, without polling"),
        ),
        _tried(
            "the command",
            ("h11", lambda: version("h11"), "roket serve"),
            ("rich", lambda: version("rich"), "a progress bar; without it a plain line"),
            ("openat2", on_disk(probes.openat2), "roket serve follows links, but not out of its directory"),
            ("renameat2", on_disk(probes.renameat2), "a new file never replaces one that appeared meanwhile"),
        ),
        _tried(
            "the test harness",
            ("sock_diag", probes.sock_diag, "the state of every socket, also of other programs"),
            ("/proc/net/tcp", probes.proc_net, "the state of every socket, but slower"),
            ("netns", probes.network_namespace, "a network for each test"),
            ("tracefs", probes.tracefs, "why the kernel sent an RST"),
        ),
    ]


def _tried(title: str, *probed: tuple[str, Callable[[], object], str]) -> CapabilityGroup:
    return CapabilityGroup(title, [_try(name, probe, use) for name, probe, use in probed])


def _try(name: str, probe: Callable[[], object], use: str) -> Capability:
    try:
        detail = probe()
    except PackageNotFoundError:
        return Capability(name, False, "not installed", use)
    except (OSError, AttributeError, ValueError) as error:
        return Capability(name, False, getattr(error, "strerror", None) or str(error), use)
    return Capability(name, True, detail if isinstance(detail, str) else "", use)


def observer(groups: list[CapabilityGroup]) -> str:
    """The names of what the harness would observe sockets by."""
    available = {one.name for group in groups for one in group.capabilities if one.is_available}
    first = next((name for name in ("sock_diag", "/proc/net/tcp") if name in available), "raw sockets alone")
    return f"{first} and tracefs" if "tracefs" in available else first


def _about() -> dict[str, str]:
    return {
        "roket-trio": __version__,
        "trio": version("trio"),
        "anyio": version("anyio"),
        platform.python_implementation(): platform.python_version(),
        platform.system(): f"{platform.release()} {platform.machine()}",
    }
