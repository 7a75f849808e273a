"""``roket serve [DIRECTORY]``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ..console.options import add_drain, add_tls
from ..console.values import LOCALHOST, Address, count, local, seconds

DESCRIPTION = """\
Serve a directory over HTTP/1.1: ranges, conditional requests, sendfile. Nothing outside of it, and no name that begins
with a dot, is ever served. Listens on 127.0.0.1 unless told otherwise ('*:PORT' is everywhere). SIGTERM or Ctrl-C ends
it when the answers under way are sent or --drain is over; a second one at once. Needs the extra roket-trio[cli]."""
EXAMPLES = """\
roket serve
roket serve --bind '*:8080' public"""
_PORT = 8000


def configure(parser: ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("directory", metavar="DIR", nargs="?", default=".", help="what to serve (default: this one)")
    parser.add_argument(
        "--bind",
        metavar="[BIND:]PORT",
        type=local,
        default=Address(LOCALHOST, _PORT),
        help=f"where to listen: [BIND:]PORT, or unix:PATH (default: {_PORT})",
    )
    parser.add_argument("--no-listing", action="store_true", help="no list for a directory without index.html")
    parser.add_argument(
        "--max-connections",
        type=count,
        default=1000,
        metavar="N",
        help="more than N wait in the listen queue (default: 1000)",
    )
    parser.add_argument(
        "--idle-timeout",
        type=seconds,
        default=60.0,
        metavar="SECONDS",
        help="end a connection on which nothing moves for so long (default: 60)",
    )
    add_drain(parser)
    add_tls(parser, server=True)


def run(options: Namespace) -> int:
    """The exit code."""
    from ..servers.serving import run_server

    return run_server(options)
