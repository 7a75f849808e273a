"""``roket doctor``."""

from __future__ import annotations

import os
import platform
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from ... import __version__
from .. import probes
from ..console.exit_codes import local_file
from ..console.output import say, tell

DESCRIPTION = """\
Say what this machine offers: the system calls that make transfers fast and closes certain, what the test harness can
observe, and the limits that matter. Each is tried, not looked up. What is missing has a fallback, and costs speed or
knowledge, not bytes."""
EXAMPLES = """\
roket doctor /mnt/big-disk"""


class Finding(NamedTuple):
    """One thing, whether it is here, and what it is good for."""

    name: str
    is_here: bool
    detail: str
    use: str


class Section(NamedTuple):
    """Things that serve one purpose."""

    title: str
    findings: list[Finding]


def configure(parser: ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument(
        "directory", metavar="DIR", nargs="?", default=".", help="whose file system to try (default: the current one's)"
    )
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(options: Namespace) -> int:
    """The exit code."""
    try:
        os.scandir(options.directory).close()
    except OSError as error:
        problem = local_file(options.directory, error)
        say(f"roket doctor: {problem.message}")
        return problem.code
    sections = examine(options.directory)
    limits = probes.limits()
    about = _about()
    if options.json:
        import json

        found = {
            section.title: {
                finding.name: {"available": finding.is_here, "detail": finding.detail} for finding in section.findings
            }
            for section in sections
        }
        tell(json.dumps({"about": about, **found, "limits": limits, "observer": observer(sections)}))
        return 0
    facts = [f"{name} {value}" for name, value in about.items()]
    for line in (facts[:-2], facts[-2:]):  # ours and whom it needs; where they run
        tell(", ".join(line))
    width = max(len(finding.name) for section in sections for finding in section.findings)
    for section in sections:
        tell(f"\n{section.title}")
        for finding in section.findings:
            detail = f" ({finding.detail})" if finding.detail else ""
            mark = "yes" if finding.is_here else "no "
            tell(f"  {finding.name.ljust(width)}  {mark}  {finding.use}{detail}")
    tell(f"\nthe harness would observe by {observer(sections)}")
    tell("\nlimits")
    width = max(map(len, limits))
    for name, value in limits.items():
        tell(f"  {name.ljust(width)}  {value}")
    return 0


def examine(directory: str) -> list[Section]:
    """Try everything."""
    file_system = probes.file_system(directory)

    def on_disk(probe: Callable[[str], object]) -> Callable[[], object]:
        return lambda: probe(directory)

    return [
        Section(
            "speed",
            list(
                _tried(
                    ("sendfile", probes.sendfile, "file to socket without a copy"),
                    ("splice", probes.splice, "socket to file and to socket without a copy"),
                    ("copy_file_range", on_disk(probes.copy_file_range), "file to file within the file system"),
                    ("RWF_NOWAIT", on_disk(probes.cached_reads), f"cached pages without a thread, on {file_system}"),
                    ("uvloop", lambda: version("uvloop"), "another event loop"),
                )
            ),
        ),
        Section(
            "closing",
            list(
                _tried(
                    ("TCP_INFO", probes.tcp_info, "what the peer has acknowledged"),
                    ("epoll", probes.epoll, "its FIN, and its ACK of ours, without polling"),
                )
            ),
        ),
        Section(
            "the command",
            list(
                _tried(
                    ("h11", lambda: version("h11"), "roket serve"),
                    ("rich", lambda: version("rich"), "a progress bar; otherwise a plain meter"),
                    ("openat2", on_disk(probes.openat2), "roket serve follows links, but not out of its directory"),
                    ("renameat2", on_disk(probes.renameat2), "a new file never replaces one that appeared meanwhile"),
                    ("tarfile filter", probes.tar_filter, "roket recv --unpack"),
                )
            ),
        ),
        Section(
            "the test harness",
            list(
                _tried(
                    ("sock_diag", probes.sock_diag, "the state of every socket, also of other programs"),
                    ("/proc/net/tcp", probes.proc_net, "the same, slower"),
                    ("netns", probes.network_namespace, "networks of the tests' own"),
                    ("tracefs", probes.tracefs, "why the kernel sent an RST"),
                )
            ),
        ),
    ]


def _tried(*probed: tuple[str, Callable[[], object], str]) -> Iterable[Finding]:
    for name, probe, use in probed:
        try:
            detail = probe()
        except PackageNotFoundError:
            yield Finding(name, False, "not installed", use)
        except (OSError, AttributeError, ValueError) as error:
            yield Finding(name, False, getattr(error, "strerror", None) or str(error), use)
        else:
            yield Finding(name, True, detail if isinstance(detail, str) else "", use)


def observer(sections: list[Section]) -> str:
    """By what the harness would see sockets."""
    here = {finding.name for section in sections for finding in section.findings if finding.is_here}
    first = next((name for name in ("sock_diag", "/proc/net/tcp") if name in here), "raw sockets alone")
    return f"{first} and tracefs" if "tracefs" in here else first


def _about() -> dict[str, str]:
    return {
        "roket-trio": __version__,
        "trio": version("trio"),
        "anyio": version("anyio"),
        platform.python_implementation(): platform.python_version(),
        platform.system(): f"{platform.release()} {platform.machine()}",
    }
